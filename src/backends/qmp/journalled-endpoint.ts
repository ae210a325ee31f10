import { resolve } from 'node:path';
import { describeEndpoint, type Endpoint } from '../../qmp/endpoint.js';

/** As a later run in another folder can use it. */
export function journalledEndpoint(endpoint: Endpoint): string {
  return describeEndpoint(endpoint.kind === 'unix' ? { ...endpoint, path: resolve(endpoint.path) } : endpoint);
}
