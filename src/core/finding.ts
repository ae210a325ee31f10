/** What is said about something that was looked at: by `doctor` of a VM and a target, by `openPoint` of a point. */
export interface Finding {
  /** `error`: it does not work; `warning`: it works worse than expected; else `info`. */
  readonly level: 'error' | 'warning' | 'info';
  /** A disk id, or `VM`, `agent`, `scratch`, `target`, `host`, `definition`. */
  readonly subject: string;
  readonly what: string;
  /** What to do about it, or null where nothing has to be done. */
  readonly todo: string | null;
}
