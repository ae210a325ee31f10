import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { expect, it } from 'vitest';
import { PROGRAM } from '../support/cli.js';
import { type DomainScenario, domainWithFull, writeBothDisks } from '../support/domain-scenario.js';
import { compareImages } from '../support/lab/compare.js';
import { flush } from '../support/lab/guest-writes.js';
import { useLibvirt } from '../support/use-libvirt.js';

const lab = useLibvirt();

/** Names of what the stream unpacks to in `folder`. */
async function unpack({ vm }: DomainScenario, folder: string): Promise<readonly string[]> {
  await mkdir(folder);
  const stream = execa(process.execPath, [PROGRAM, ...vm, 'backup', '--level', 'copy', '--output', '-'], {
    buffer: { stdout: false },
    encoding: 'buffer',
  });
  const tar = execa('tar', ['-C', folder, '-xf', '-']);
  stream.stdout.pipe(tar.stdin);
  await Promise.all([stream, tar]);
  return (await readdir(folder, { recursive: true })).toSorted();
}

it('a domain goes to stdout with its definition, whether it runs or is off, and keeps its chain', async () => {
  const scenario = await domainWithFull(lab);
  await writeBothDisks(scenario, 20, 0x41);
  for (const disk of ['vda', 'vdb']) await flush(scenario.domain, disk);
  const before = await scenario.checkpoints();
  for (const state of ['running', 'off']) {
    if (state === 'off') await scenario.domain.destroy();
    const folder = join(lab.dir, `stream-${state}`);
    const names = await unpack(scenario, folder);
    expect(names).toEqual(expect.arrayContaining(['machine.json', 'vda.raw', 'vdb.raw']));
    const definition = names.find((name) => /^definition\/DOMAIN-\d+\.xml$/.test(name)) ?? 'no definition';
    for (const disk of ['vda', 'vdb']) await compareImages(join(folder, `${disk}.raw`), scenario.fileOf(disk));
    expect(await readFile(join(folder, definition), 'utf8')).toContain(scenario.domain.uuid);
    expect(await scenario.checkpoints()).toEqual(before);
    await scenario.expectNothingLeft(1);
  }
  await scenario.domain.start();
  expect((await scenario.backup('inc')).point.level).toBe('inc');
  await scenario.expectChainEqualsDisks();
});
