import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { QmpBackupError } from '../../../src/errors.js';
import { describeEndpoint, type Endpoint, parseEndpoint } from '../../../src/qmp/endpoint.js';

describe('parseEndpoint', () => {
  test.each<[string, Endpoint]>([
    ['/run/vm.sock', { kind: 'unix', path: '/run/vm.sock' }],
    ['unix:/run/vm.sock', { kind: 'unix', path: '/run/vm.sock' }],
    ['unix:vm.sock', { kind: 'unix', path: 'vm.sock' }],
    ['./a:b/vm.sock', { kind: 'unix', path: './a:b/vm.sock' }],
    ['tcp:localhost:4444', { kind: 'tcp', host: 'localhost', port: 4444 }],
    ['tcp:192.0.2.7:1', { kind: 'tcp', host: '192.0.2.7', port: 1 }],
    ['tcp:[::1]:65535', { kind: 'tcp', host: '::1', port: 65535 }],
  ])('reads %s', (text, endpoint) => {
    expect(parseEndpoint(text)).toEqual(endpoint);
  });

  test.each([
    ['', 'the path is empty'],
    ['unix:', 'the path is empty'],
    ['tcp:', 'tcp:HOST:PORT'],
    ['tcp:host', 'tcp:HOST:PORT'],
    ['tcp::4444', 'tcp:HOST:PORT'],
    ['tcp:::1:4444', 'tcp:HOST:PORT'],
    ['tcp://host:4444', 'tcp:HOST:PORT'],
    ['tcp:host:ssh', 'tcp:HOST:PORT'],
    ['tcp:host:0', 'port 0'],
    ['tcp:host:65536', 'port 65536'],
    ['/run/vm.sock,server=on,wait=off', 'options of QEMU'],
    ['tcp:host:4444,server', 'options of QEMU'],
    ['/run/\0vm.sock', 'NUL'],
    [`/${'é'.repeat(54)}`, 'at most 107 bytes, this one has 109'],
  ])('refuses %j', (text, reason) => {
    try {
      parseEndpoint(text);
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(QmpBackupError);
      const { code, message, hint } = error as QmpBackupError;
      expect(code).toBe('usage');
      expect(message).toContain(reason);
      expect(hint).toBeTruthy();
    }
  });

  test('accepts a path of just the allowed length', () => {
    const path = `/${'x'.repeat(106)}`;
    expect(parseEndpoint(path)).toEqual({ kind: 'unix', path });
  });

  test('reads back what describeEndpoint writes', () => {
    const paths = fc
      .string({ minLength: 1, maxLength: 100, unit: 'grapheme-ascii' })
      .filter((path) => !path.includes(','));
    const hosts = fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain());
    fc.assert(
      fc.property(
        fc.oneof<fc.Arbitrary<Endpoint>[]>(
          paths.map((path) => ({ kind: 'unix', path })),
          fc.tuple(hosts, fc.integer({ min: 1, max: 65535 })).map(([host, port]) => ({ kind: 'tcp', host, port })),
        ),
        (endpoint) => {
          expect(parseEndpoint(describeEndpoint(endpoint))).toEqual(endpoint);
        },
      ),
    );
  });
});
