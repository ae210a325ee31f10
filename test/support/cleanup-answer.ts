/** The JSON answer of `cleanup`, as far as tests ask for it. */
export interface CleanupAnswer {
  readonly bitmaps: readonly { readonly where: string; readonly bitmap: string; readonly removed: boolean }[];
  readonly stuck: readonly { readonly where: string; readonly bitmap: string }[];
}
