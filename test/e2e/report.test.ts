import { mkdir, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { formatBytes } from '../../src/core/bytes.js';
import { bytesOfPoint } from '../../src/core/point-space.js';
import { evidenceName } from '../../src/core/boot-proof.js';
import { type Catalog, catalogText } from '../../src/core/catalog.js';
import { accessFaults, overflow, read, show } from '../support/browser.js';
import { isThere } from '../../src/host/is-there.js';
import { pageName } from '../../src/report/html/page-name.js';
import { expectCli, PROGRAM, startCli } from '../support/cli.js';
import { fleet, vmsSection } from '../support/fleet.js';
import { onePixel } from '../support/one-pixel.js';
import { makeUpSame, makeUpTarget } from '../support/made-up-targets.js';
import { mountHanging, mountSmall } from '../support/mounts.js';
import { labDir } from '../support/scenario.js';

// The pages of `report`, looked at in a real browser.

const MB = 1_000_000;
const NEWEST = '2026-11-30T10:00:00.000Z';
const LOOKS = [
  { width: 1280, theme: 'light' },
  { width: 1280, theme: 'dark' },
  { width: 360, theme: 'light' },
  { width: 360, theme: 'dark' },
] as const;

interface Row {
  readonly name: string;
  readonly at: string;
  readonly size: number;
}

/** Rows of points, newest first within each chain. */
const ROWS = `[...document.querySelectorAll('table.points tbody tr:has(th.first)')].map((row) => ({
  name: row.querySelector('th').textContent,
  at: row.querySelector('time').getAttribute('datetime'),
  size: Number(row.querySelector('data').value),
}))`;

function rowsOf({ points }: Catalog): readonly Row[] {
  return points.map((each) => ({
    name: `${each.chain}:${each.number}`,
    at: each.createdAt,
    size: bytesOfPoint(each),
  }));
}

function byName(rows: readonly Row[]): readonly Row[] {
  return rows.toSorted((a, b) => a.name.localeCompare(b.name));
}

/** Without an error, a request, or anything that is wider than the window. */
async function expectSound(path: string, looks: readonly (typeof LOOKS)[number][] = LOOKS): Promise<void> {
  for (const look of looks) {
    const { page, said, asked } = await show(path, look);
    expect([await overflow(page), said, asked], `${path} at ${JSON.stringify(look)}`).toEqual([0, [], []]);
    await page.close();
  }
}

/** Name of the page of a VM in a report of targets. */
function pageOf(vm: string, target: string): string {
  return `${pageName(vm, target)}.html`;
}

async function pagesIn(folder: string): Promise<readonly string[]> {
  return (await isThere(folder)) ? await readdir(folder) : [];
}

describe('the report', () => {
  it('shows a VM of 720 points in one page: its numbers are those of the catalog', async () => {
    const dir = await labDir();
    const target = join(dir, 'web1');
    const made = makeUpTarget({ dir: target, name: 'web1', points: 720, newest: NEWEST });
    const output = join(dir, 'backups.html');
    await expectCli(0, ['report', '--target', target, '--output', output]);
    expect((await stat(output)).size).toBeLessThan(3 * MB);
    await expectSound(output);
    const { page } = await show(output, LOOKS[0]);
    expect(byName(await read<Row[]>(page, ROWS))).toEqual(byName(rowsOf(made)));
    const total = made.points.reduce((sum, each) => sum + bytesOfPoint(each), 0);
    expect(await read(page, `document.querySelector('article dl').textContent`)).toContain(formatBytes(total));
    const calendar = await read<string[]>(
      page,
      `[...document.querySelectorAll('.month figcaption span')].map((each) => each.textContent)`,
    );
    expect(calendar.reduce((sum, each) => sum + parseInt(each, 10), 0)).toBe(720);
    const disks = await read<string[]>(
      page,
      `[...document.querySelectorAll('table.disks tbody tr')].map((row) => row.querySelector('th').textContent + ' ' + row.querySelector('data').value)`,
    );
    const bytes = (disk: string): number =>
      made.points
        .flatMap((each) => each.disks)
        .reduce((sum, each) => sum + (each.disk === disk ? each.allocated : 0), 0);
    expect(disks).toEqual(['vdb', 'vda'].map((disk) => `${disk} ${bytes(disk)}`));
    // An increment needs those before it in its chain, from the DIFF or FULL on.
    const [newest] = made.points.slice(-1);
    const needs = await read<string>(
      page,
      `document.querySelector('table.points tbody tr:not(.chain) td:nth-of-type(5)').textContent`,
    );
    expect(needs).toBe(
      `6 files ${newest?.chain}:0, ${newest?.chain}:28–29`.replace('6 files', needs.split(' files')[0] + ' files'),
    );
    await page.close();
  });

  it('has an overview and a page for each of 8 VMs, which people with weak eyes can read, too', async () => {
    const dir = await labDir();
    const made = [...Array(8).keys()].map((index) =>
      makeUpTarget({
        dir: join(dir, `targets/vm${index}`),
        name: `vm${index}`,
        points: 10 + index,
        newest: NEWEST,
        note: 'before the upgrade',
      }),
    );
    const output = join(dir, 'report');
    const answer = (
      await expectCli(0, [
        'report',
        '--json',
        '--target',
        join(dir, 'targets'),
        '--max-age',
        '0.0001h',
        '--output',
        output,
      ])
    ).json<{ level: string; vms: number; pages: readonly string[] }>();
    expect(answer).toMatchObject({ level: 'warning', vms: 8 });
    expect(answer.pages.map((each) => each.slice(output.length + 1)).toSorted()).toEqual(
      (await readdir(output)).toSorted(),
    );
    for (const name of ['index.html', pageOf('vm3', join(dir, 'targets/vm3'))]) {
      await expectSound(join(output, name));
      for (const theme of ['light', 'dark'] as const) {
        const { page } = await show(join(output, name), { width: 1280, theme });
        expect(await accessFaults(page), `${name}, ${theme}`).toEqual([]);
        await page.close();
      }
    }
    const { page } = await show(join(output, 'index.html'), LOOKS[0]);
    const points = await read<string[]>(
      page,
      `[...document.querySelectorAll('tbody tr')].map((row) => row.querySelector('th').textContent + ' ' + row.querySelector('[data-label=Points]').textContent)`,
    );
    expect(points).toEqual(made.map((each, index) => `vm${index} ${each.points.length}`));
    await page.click('tbody a');
    await page.waitForSelector('table.points');
    expect(await read(page, `document.querySelector('h1').textContent`)).toBe('vm0');
    await page.close();
  });

  it('is the same where a process may have no threads', async () => {
    const dir = await labDir();
    for (const index of [...Array(9).keys()]) {
      // Names of others in letters that are no ASCII.
      makeUpTarget({
        dir: join(dir, `targets/${index}`),
        name: `B\u00fccher \u0431\u0434 \u{1f4d7} ${index}`,
        points: 5,
        newest: NEWEST,
      });
    }
    const pages = async (folder: string): Promise<readonly (readonly [string, string])[]> => {
      const names = (await readdir(folder)).toSorted();
      return Promise.all(
        // The time, and what is free, are other ones each time.
        names.map(async (name) => {
          const text = await readFile(join(folder, name), 'latin1');
          expect(text).toMatch(/^[\0-\x7f]*$/);
          return [name, text.replace(/As of [^]*?<\/p>|<small><data[^]*?<\/small>/g, '')] as const;
        }),
      );
    };
    const ask = ['report', '--target', join(dir, 'targets'), '--output'];
    await expectCli(0, [...ask, join(dir, 'threads')]);
    const limited = await execa('bash', [
      '-c',
      'ulimit -v 8000000; exec "$@"',
      'bash',
      process.execPath,
      PROGRAM,
      ...ask,
      join(dir, 'none'),
    ]);
    expect(limited.exitCode).toBe(0);
    const made = await pages(join(dir, 'threads'));
    expect(made).toHaveLength(10);
    expect(await pages(join(dir, 'none'))).toEqual(made);
    const { page } = await show(join(dir, 'threads', made[1]?.[0] ?? ''), LOOKS[0]);
    expect(await read(page, 'document.title')).toBe('B\u00fccher \u0431\u0434 \u{1f4d7} 0 \u2013 backups');
    await page.close();
  });

  it('has room for 300 VMs of 720 points', async () => {
    const dir = await labDir();
    const first = join(dir, 'targets/vm0');
    makeUpTarget({ dir: first, name: 'vm0', points: 720, newest: NEWEST, disks: ['vda'] });
    for (let index = 1; index < 300; index += 1) makeUpSame(first, join(dir, `targets/vm${index}`), `vm${index}`);
    const output = join(dir, 'report');
    await expectCli(2, ['report', '--target', join(dir, 'targets'), '--output', join(dir, 'all.html')]);
    // One that is killed on its way, and one that is told to end: the next finds its way, and nothing is left of them.
    const ask = ['report', '--target', join(dir, 'targets'), '--output', output];
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      await rm(output, { recursive: true, force: true });
      const begun = startCli(ask);
      await expect.poll(async () => (await pagesIn(output)).length).toBeGreaterThan(3);
      begun.kill(signal);
      const { exitCode } = await begun;
      if (signal === 'SIGTERM') expect(exitCode).toBe(143);
      expect(await pagesIn(output)).not.toContain('index.html');
    }
    await expectCli(0, ask);
    const names = await readdir(output);
    expect(names.filter((name) => !/^(index|vm-vm\d+~[0-9a-f]{12})\.html$/.test(name))).toEqual([]);
    expect(names).toHaveLength(301);
    for (const name of names) expect((await stat(join(output, name))).size, name).toBeLessThan(3 * MB);
    await expectSound(join(output, 'index.html'), [LOOKS[0], LOOKS[3]]);
    await expectSound(join(output, pageOf('vm299', join(dir, 'targets/vm299'))), [LOOKS[1], LOOKS[2]]);
    const { page } = await show(join(output, 'index.html'), LOOKS[0]);
    expect(await read(page, `document.querySelectorAll('tbody tr').length`)).toBe(300);
    expect(await read(page, `document.querySelector('dl').textContent`)).toContain('216000');
    await page.close();
  });

  it('shows what others have named as text, whatever it says', async () => {
    const dir = await labDir();
    const nasty = `</title></style><script>alert(1)</script><img src=x onerror="alert(2)">'"&\u202eabc`;
    makeUpTarget({ dir: join(dir, 'nasty'), name: nasty, points: 60, newest: NEWEST, note: nasty });
    const output = join(dir, 'report');
    const done = (await expectCli(0, ['report', '--json', '--target', join(dir, 'nasty'), '--output', output])).json<{
      pages: readonly string[];
    }>();
    for (const path of [...done.pages]) {
      await expectSound(path);
      const { page } = await show(path, LOOKS[0]);
      expect(await read(page, `document.querySelectorAll('script, img, iframe, [onerror], [style]').length`)).toBe(0);
      expect(await read(page, `document.body.textContent`)).toContain(nasty.replace('\u202e', '?'));
      await page.close();
    }
  });

  it('replaces and removes nothing but pages of reports', async () => {
    const dir = await labDir();
    const targets = join(dir, 'targets');
    for (const name of ['web1', 'db']) makeUpTarget({ dir: join(targets, name), name, points: 3, newest: NEWEST });
    const to = (output: string): readonly string[] => ['report', '--target', targets, '--output', output];

    const web = join(dir, 'www');
    await mkdir(web);
    await writeFile(join(web, 'index.html'), '<!doctype html>\n<title>mine</title>');
    expect((await expectCli(13, to(web))).stderr).toMatch(/index\.html is there and is no page of a report/);
    await expectCli(13, to(join(web, 'index.html')));
    await rm(join(web, 'index.html'));
    await writeFile(join(web, 'photo.jpg'), 'mine');
    expect((await expectCli(13, to(web))).stderr).toMatch(/holds something else: photo\.jpg/);
    expect(await readdir(web)).toEqual(['photo.jpg']);

    const own = join(dir, 'own');
    const [web1, db] = [pageOf('web1', join(targets, 'web1')), pageOf('db', join(targets, 'db'))];
    await expectCli(0, to(own));
    // What somebody puts beside them stays, also under the name of a page; what a run left that died goes, as do pages of VMs that are gone.
    await writeFile(join(own, 'logo.png'), 'mine');
    await writeFile(join(own, `${db}.tmp`), '<!doctype html>\n<html');
    await rm(join(targets, 'db'), { recursive: true });
    const again = (await expectCli(0, [...to(own), '--json'])).json<{ removed: readonly string[] }>();
    expect([...again.removed].toSorted()).toEqual([db, `${db}.tmp`]);
    expect((await readdir(own)).toSorted()).toEqual(['index.html', 'logo.png', web1]);
    await writeFile(join(own, 'vm-old.html'), 'mine');
    await expectCli(13, to(own));
    await rm(join(own, 'vm-old.html'));
    await rm(join(own, web1));
    await symlink(join(web, 'photo.jpg'), join(own, web1));
    await expectCli(13, to(own));
    expect(await readFile(join(web, 'photo.jpg'), 'utf8')).toBe('mine');
  });

  it('has each VM at an address of its own, whichever others are in it and whatever is read first', async () => {
    const dir = await labDir();
    // Two of one name, and some whose names leave the same for that of a file.
    const vms = ['web1', 'web1', 'a b', 'a_b', 'a/b'].map((name, index) => ({ name, dir: join(dir, `t${index}`) }));
    for (const each of vms) makeUpTarget({ ...each, points: 2, newest: NEWEST });
    const addresses = async (asked: typeof vms, output: string): Promise<readonly string[]> => {
      const of = asked.flatMap((each) => ['--target', each.dir]);
      await expectCli(0, ['report', ...of, '--output', join(dir, output)]);
      const index = await readFile(join(dir, output, 'index.html'), 'latin1');
      const rows = [...index.matchAll(/<th role="rowheader" scope="row"><a href="([^"]+)"/g)];
      const pages = rows.map(([, href]) => decodeURIComponent(href ?? ''));
      expect([...pages, 'index.html'].toSorted()).toEqual((await readdir(join(dir, output))).toSorted());
      for (const page of pages) expect(asked.map((each) => pageOf(each.name, each.dir))).toContain(page);
      return pages;
    };
    const all = await addresses(vms, 'all');
    expect(new Set(all).size).toBe(vms.length);
    expect(new Set(await addresses(vms.toReversed(), 'reversed'))).toEqual(new Set(all));
    for (const left of vms) {
      const others = await addresses(
        vms.filter((each) => each !== left),
        'all',
      );
      expect(others).toHaveLength(vms.length - 1);
      expect(all).toEqual(expect.arrayContaining([...others]));
    }
  });

  it('takes pages that a power cut has torn for its own, and nothing else', async () => {
    const dir = await labDir();
    makeUpTarget({ dir: join(dir, 'web1'), name: 'web1', points: 3, newest: NEWEST });
    const output = join(dir, 'report');
    const ask = ['report', '--target', join(dir, 'web1'), '--output', output];
    await expectCli(0, ask);
    const page = pageOf('web1', join(dir, 'web1'));
    const whole = await readFile(join(output, page));
    for (const torn of [Buffer.alloc(0), Buffer.alloc(whole.length), whole.subarray(0, 40), whole.subarray(0, 5000)]) {
      for (const name of [page, 'vm-gone.html', `${page}.tmp`, 'index.html.tmp'])
        await writeFile(join(output, name), torn);
      await expectCli(0, ask);
      expect((await readdir(output)).toSorted()).toEqual(['index.html', page]);
      expect((await readFile(join(output, page))).length).toBe(whole.length);
    }
    // The overview is flushed: an empty one is of somebody who hides a folder.
    await writeFile(join(output, 'index.html'), '');
    await expectCli(13, ask);
  });

  it('tells of a target that hangs, and shows the others', async () => {
    const dir = await labDir();
    const [well, hung] = [join(dir, 'well'), join(dir, 'hung')];
    makeUpTarget({ dir: well, name: 'well', points: 3, newest: NEWEST });
    const server = await mountHanging(hung);
    makeUpTarget({ dir: join(hung, 'lost'), name: 'lost', points: 3, newest: NEWEST });
    server.hang();
    const output = join(dir, 'report');
    await expectCli(0, ['report', '--target', well, '--target', join(hung, 'lost'), '--output', output]);
    server.answer();
    const { page } = await show(join(output, 'index.html'), LOOKS[0]);
    const attention = await read<string>(page, `document.querySelector('.reasons').textContent`);
    expect(attention).toMatch(/lost\s+.* does not answer/);
    expect(await read(page, `document.querySelectorAll('tbody tr').length`)).toBe(2);
    await page.close();
  });

  it('shows pictures of boot tests, and says why where one cannot be shown', async () => {
    const dir = await labDir();
    const target = join(dir, 'web1');
    const { points } = makeUpTarget({ dir: target, name: 'web1', points: 4, newest: NEWEST, bootEvery: 1 });
    const proofs = join(dir, 'proofs');
    const server = await mountHanging(proofs);
    const keep = (at: number, bytes: Buffer): Promise<void> =>
      writeFile(join(proofs, `${evidenceName(points[at]!)}.png`), bytes);
    await keep(3, onePixel());
    await keep(2, Buffer.concat([onePixel(), Buffer.alloc(3 * MB)]));
    await keep(1, Buffer.from('<svg onload="alert(1)">'));
    const output = join(dir, 'report');
    const shown = `[...document.querySelectorAll('.pictures figure')].map((each) => each.querySelector('img')?.naturalWidth ?? each.querySelector('p').textContent)`;
    const look = async (): Promise<readonly (string | number)[]> => {
      await expectCli(0, ['report', '--target', target, '--evidence', proofs, '--output', output]);
      const { page, said } = await show(join(output, pageOf('web1', join(dir, 'web1'))), LOOKS[3]);
      expect([await overflow(page), said]).toEqual([0, []]);
      const found = await read<readonly (string | number)[]>(page, shown);
      await page.close();
      return found;
    };
    expect(await look()).toEqual([
      1,
      'the picture takes 2.9 MiB, for which this page has no room',
      'the picture is no PNG',
    ]);
    server.hang();
    expect(await look()).toEqual([expect.stringMatching(/does not answer/)]);
    server.answer();
  });

  it('shows points of every kind: lost, suspect, pinned, of no time that is one, and files without a size', async () => {
    const dir = await labDir();
    const target = join(dir, 'web1');
    makeUpTarget({ dir: target, name: 'web1', points: 12, newest: NEWEST });
    const path = join(target, 'catalog.json');
    const made = JSON.parse(await readFile(path, 'utf8')) as Catalog;
    const points = made.points.map((each, at): Catalog['points'][number] => ({
      ...each,
      ...(at === 3 && { createdAt: 'yesterday' }),
      ...(at === 5 && { pinned: true, note: '<b>kept</b> for the audit '.repeat(20) }),
      disks: each.disks.map((file) => ({ ...file, allocated: 0, ...(at === 11 && { suspect: 'it was imported' }) })),
    }));
    await writeFile(path, catalogText({ ...made, points }));
    await rm(join(target, 'vda', points[8]!.disks[0]!.file));
    const output = join(dir, 'report');
    await expectCli(0, ['report', '--target', target, '--output', output]);
    const file = join(output, pageOf('web1', join(dir, 'web1')));
    await expectSound(file);
    const { page } = await show(file, LOOKS[3]);
    const rows = `[...document.querySelectorAll('table.points tbody tr')].map((row) => row.textContent.replace(/\\s+/g, ' '))`;
    const told = (await read<readonly string[]>(page, rows)).join('\n');
    expect(told.match(/cannot be restored: /g)).toHaveLength(4);
    expect(told).toMatch(/cannot be restored: vda\/INC-\d+\.qcow2: it is missing/);
    expect(told).toMatch(/vda is suspect: it was importedvdb is suspect/);
    expect(told).toMatch(/pinnednote: <b>kept<\/b> for the audit <b>kept/);
    expect(told).toMatch(/:3 yesterday INC/);
    const files = `[...document.querySelectorAll('table.disks tbody tr td:last-child')].map((each) => each.textContent)`;
    expect(await read(page, files)).toEqual(['11', '11']);
    expect(await accessFaults(page)).toEqual([]);
    await page.close();
  });

  it('stays as it was where there is no space for a new one', async () => {
    const dir = await labDir();
    makeUpTarget({ dir: join(dir, 'web1'), name: 'web1', points: 200, newest: NEWEST });
    const small = join(dir, 'small');
    const disk = await mountSmall(small, 2 * MB);
    const output = join(small, 'report');
    await expectCli(0, ['report', '--target', join(dir, 'web1'), '--output', output]);
    const before = await readFile(join(output, pageOf('web1', join(dir, 'web1'))), 'utf8');
    await disk.fillBut(100_000);
    const failed = await expectCli(1, ['report', '--target', join(dir, 'web1'), '--output', output]);
    expect(failed.stderr).toMatch(/no space left/i);
    expect(await readFile(join(output, pageOf('web1', join(dir, 'web1'))), 'utf8')).toBe(before);
    expect(await readdir(output)).toEqual(['index.html', pageOf('web1', join(dir, 'web1'))]);
    const fresh = join(small, 'fresh');
    await disk.fill();
    await expectCli(1, ['report', '--target', join(dir, 'web1'), '--output', fresh]);
    expect(await readdir(small)).not.toContain('fresh');
  });
});

describe('a run', () => {
  it('makes the report that is configured: failures in their own words, pictures of what was booted', async () => {
    const lab = await fleet(['web1', 'db']);
    const output = join(lab.dir, 'report');
    const proofs = join(lab.dir, 'proofs');
    await lab.configure(`
defaults:
  target: "${lab.backups}/{vm}"
  max-age: 26h
  verify: { boot-every: 1d, expect: "running:1", evidence: "${proofs}/{vm}", qemu-arguments: ["-accel", "tcg", "-device", "VGA"] }
${vmsSection(lab)}
report: { output: "${output}" }
`);
    expect((await lab.cli(0, 'run', '--dry-run')).stderr).toMatch(/qmpbackup report --config=.* --output=/);
    expect(await readdir(lab.dir)).not.toContain('report');
    await lab.cli(0, 'run');
    await expectSound(join(output, 'index.html'));
    const { page } = await show(join(output, 'vm-web1.html'), LOOKS[0]);
    const size = await read<number>(page, `document.querySelector('.pictures img').naturalWidth`);
    expect(size).toBeGreaterThan(300);
    expect(await accessFaults(page)).toEqual([]);
    await page.close();

    await lab.vms.get('db')!.stop();
    await lab.cli(3, 'run');
    const { page: index } = await show(join(output, 'index.html'), LOOKS[2]);
    const attention = await read<string>(index, `document.querySelector('.reasons').textContent`);
    expect(attention).toMatch(/db backup failed: cannot connect/);
    await index.close();
    await expectSound(join(output, 'vm-db.html'));

    // A report that cannot be written is said, and is no backup that failed.
    await rm(output, { recursive: true });
    await mkdir(output);
    await writeFile(join(output, 'mine'), '');
    const other = await lab.cli(0, 'run', 'web1');
    expect(other.stderr).toMatch(/report: the folder .* holds something else: mine/);
  });
});
