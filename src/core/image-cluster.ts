/** Bytes of a cluster of the images that we make, of scratch images too: what a copy-before-write filter copies at a time. */
export const IMAGE_CLUSTER = 65_536;
