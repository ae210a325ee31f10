import { afterEach, expect, it } from 'vitest';
import { QmpClient } from '../../../src/qmp/client.js';
import { QmpConnectionLost } from '../../../src/qmp/errors.js';
import { readHardware } from '../../../src/qemu/read-hardware.js';
import { type FakeHandler, FakeQmpServer } from '../../support/fake-qmp-server.js';

let server: FakeQmpServer | undefined;
afterEach(() => server?.stop());

async function readFrom(handler: FakeHandler) {
  server = await FakeQmpServer.start({ handlers: { 'query-hotpluggable-cpus': handler } });
  const client = await QmpClient.connect(server.endpoint);
  try {
    return await readHardware(client, []);
  } finally {
    await client.close();
  }
}

it('of a QEMU that refuses to tell nothing is known, and a monitor that is lost is no such QEMU', async () => {
  expect(await readFrom((call, session) => session.fail(call, 'CommandNotFound', 'none such'))).toBeNull();
  await server?.stop();
  await expect(readFrom((_, session) => session.hangUp())).rejects.toThrow(QmpConnectionLost);
});
