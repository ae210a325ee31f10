import type { VmInfo } from '../../operations/info.js';
import { envelope } from './envelope.js';
import type { InfoDocument } from './schemas/info.js';
import { vmDocument } from './vm.js';

export function infoDocument({ vm, tracked, beside, elsewhere }: VmInfo, show: InfoDocument['show']): InfoDocument {
  return { ...envelope('info'), show, vm: vmDocument(vm), tracked, beside, elsewhere };
}
