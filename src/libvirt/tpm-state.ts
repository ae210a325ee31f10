/** Where libvirt of the system keeps the state of emulated TPMs, in a folder for each UUID. */
export const TPM_STATE = '/var/lib/libvirt/swtpm';
