import { messageOf } from '../../errors.js';

/** Codes of OpenSSL's for a certificate that nobody known here has signed. Others are expired, or of another host. */
const OF_NOBODY = [
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
];

/**
 * Why the certificate of a server is not trusted, in OpenSSL's words; null where it is something else that failed. It is so again,
 * until a person does something: `trust` is what, where nobody knows who has signed it.
 */
export function whyNotTrusted(error: unknown, trust: string): string | null {
  for (let each = error; each instanceof Error; each = each.cause) {
    // nodemailer has codes of its own, and keeps those of Node here.
    const { code = '', originalCode = code } = each as { readonly code?: string; readonly originalCode?: string };
    // What begins so is of the connection, as where the server wants a certificate of ours.
    if (!/CERT|UNABLE_TO_VERIFY/.test(originalCode) || originalCode.startsWith('ERR_SSL_')) continue;
    const todo = OF_NOBODY.includes(originalCode) ? ` (if it is the right one: ${trust})` : '';
    return `its certificate is not trusted: ${messageOf(each)}${todo}`;
  }
  return null;
}
