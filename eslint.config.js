import js from '@eslint/js';
import tseslint from 'typescript-eslint';

/**
 * The layers of `docs/design.md`: what each folder of `src` may import. A folder that is missing from its neighbour's
 * list is refused by lint, so that data goes on flowing one way.
 */
const LAYERS = {
  domain: [],
  qmp: ['domain'],
  'qemu-img': ['domain'],
  qemu: ['domain', 'qmp'],
  'guest-agent': ['domain', 'qmp'],
  repository: ['domain'],
  nbd: ['domain'],
  libvirt: ['domain', 'nbd'],
  operations: ['domain', 'repository', 'qemu', 'qmp', 'guest-agent', 'qemu-img', 'nbd', 'libvirt'],
};

const folders = [...Object.keys(LAYERS), 'cli'];

const layerRules = Object.entries(LAYERS).map(([layer, allowed]) => {
  const forbidden = folders.filter((folder) => folder !== layer && !allowed.includes(folder));
  const patterns = [
    {
      group: forbidden.flatMap((folder) => [`**/${folder}/*`, `**/${folder}/**`]),
      message: `src/${layer} may import only: ${[...allowed, 'errors'].join(', ')}`,
    },
  ];
  if (layer === 'domain') patterns.push({ group: ['node:*'], message: 'src/domain is pure: no node modules' });
  return {
    files: [`src/${layer}/**/*.ts`],
    rules: { 'no-restricted-imports': ['error', { patterns }] },
  };
});

export default tseslint.config(
  { ignores: ['dist', '.build', '.cache', 'coverage'] },
  js.configs.recommended,
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: {
      parserOptions: {
        project: './tsconfig.test.json',
        tsconfigRootDir: import.meta.dirname,
      },
      globals: { process: 'readonly' },
    },
    rules: {
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
      // `import { type X }` alone would still load the module at start-up.
      '@typescript-eslint/no-import-type-side-effects': 'error',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/only-throw-error': 'error',
      'no-empty': ['error', { allowEmptyCatch: false }],
      'no-restricted-syntax': [
        'error',
        { selector: 'ExportDefaultDeclaration', message: 'no default exports' },
        {
          selector: "CallExpression[callee.object.name='process'][callee.property.name='exit']",
          message: 'only src/cli/main.ts exits',
        },
      ],
    },
  },
  ...layerRules,
  {
    files: ['src/domain/**/*.ts'],
    rules: {
      'no-restricted-globals': ['error', 'Date', 'process', 'setTimeout', 'setInterval', 'fetch', 'console'],
    },
  },
  {
    files: ['test/**/*.ts', 'scripts/**/*.ts'],
    rules: { '@typescript-eslint/no-non-null-assertion': 'off' },
  },
  {
    files: ['eslint.config.js', 'vitest.config.ts', 'bin/qmpbackup.js'],
    ...tseslint.configs.disableTypeChecked,
  },
  { files: ['eslint.config.js', 'vitest.config.ts'], rules: { 'no-restricted-syntax': 'off' } },
);
