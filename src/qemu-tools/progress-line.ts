/**
 * Reads what `qemu-img -p` prints: `    (12.34/100%)` again and again, with carriage returns between, in chunks that
 * may be split anywhere.
 */
const COMPLETE = /\((\d+(?:\.\d+)?)\/100%\)/g;
/** Longer than any one report; more than this is never kept. */
const LONGEST = 32;

/** A reader that takes chunks and answers with the newest percentage (0 to 100) that they complete, if any. */
export function createProgressReader(): (chunk: string) => number | undefined {
  let rest = '';
  return (chunk) => {
    const text = rest + chunk;
    let percent: number | undefined;
    let end = 0;
    for (const match of text.matchAll(COMPLETE)) {
      percent = Math.min(100, Number(match[1]));
      end = match.index + match[0].length;
    }
    rest = text.slice(end).slice(-LONGEST);
    return percent;
  };
}
