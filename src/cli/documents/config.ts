import type { Config } from '../../config/config.js';
import { secretsOf } from '../../config/notifiers.js';
import { secretOrigin } from '../../config/secret.js';
import type { ShownSetting } from '../../config/shown-settings.js';
import { targetOf, settingAt, type Vm } from '../../config/vm.js';
import type { Warning } from '../../core/warning.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import type { ConfigCheckDocument, ConfigExampleDocument, ConfigShowDocument } from './schemas/config.js';

export function configCheckDocument(
  { file, notify }: Config,
  vms: readonly Vm[],
  warnings: readonly Warning[],
): ConfigCheckDocument {
  return {
    ...envelope('config-check'),
    config: file,
    vms: vms.map((vm) => ({
      vm: vm.name,
      socket: settingAt(vm, 'socket'),
      domain: settingAt(vm, 'domain'),
      target: targetOf(vm),
      line: vm.place.line,
    })),
    notifiers: notify.map((notifier) => ({
      ...{ name: notifier.name, kind: notifier.kind, on: notifier.kind === 'ping' ? [] : notifier.rules.on },
      secrets: secretsOf(notifier).map(({ key, secret }) => ({ key, from: secretOrigin(secret) })),
      line: notifier.place.line,
    })),
    warnings: warnings.map(warningPart),
  };
}

export function configShowDocument(
  { file }: Config,
  { name }: Vm,
  settings: readonly ShownSetting[],
  warnings: readonly Warning[],
): ConfigShowDocument {
  return {
    ...envelope('config-show'),
    config: file,
    vm: name,
    settings: settings.map(({ key, value, from }) => ({
      ...{ key, value, from: from?.kind ?? ('built in' as const) },
      line: from?.place.line ?? null,
    })),
    warnings: warnings.map(warningPart),
  };
}

export function configExampleDocument(example: string, warnings: readonly Warning[]): ConfigExampleDocument {
  return { ...envelope('config-example'), example, warnings: warnings.map(warningPart) };
}
