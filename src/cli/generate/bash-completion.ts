import { asShellWord } from '../../core/shell-word.js';
import type { CommandWords, ValueKind } from './command-words.js';
import { completedCommands, pathsOf } from './shell-data.js';

/** For bash 4 and later. Words that are known stand in it, so that a TAB starts no program; the others are asked for. */
export function bashCompletion(program: CommandWords): string {
  const name = program.names[0] ?? '';
  const commands = completedCommands(program);
  const table = (title: string, rows: readonly (readonly [string, string])[]): string =>
    [
      `declare -gA _${name}_${title}=(`,
      ...rows.map(([key, value]) => `  [${asShellWord(key)}]=${asShellWord(value)}`),
      ')',
    ].join('\n');
  const options = commands.map(
    ({ path, options: all }) => [keyOf(path), all.flatMap(({ names }) => names).join(' ')] as const,
  );
  const below = commands.flatMap(({ path, commands: all }) =>
    all.length === 0 ? [] : [[keyOf(path), all.map((each) => each.name).join(' ')] as const],
  );
  const values = commands.flatMap(({ path, options: all }) =>
    all.flatMap(({ names, value, valueIsOptional }) =>
      value === null
        ? []
        : names.map((each) => [`${keyOf(path)} ${each}`, `${valueIsOptional ? '= ' : ''}${inWords(value)}`] as const),
    ),
  );
  const args = commands.flatMap(({ path, arguments: all }) =>
    all[0] ? [[keyOf(path), inWords(all[0])] as const] : [],
  );
  return `# bash completion for ${name}; made by: ${name} generate --bash-completion FILE

${table('paths', [...pathsOf(program)])}
${table('options', options)}
${table('commands', below)}
${table('values', values)}
${table('arguments', args)}

# Puts into COMPREPLY what begins like $1, of the kind and words in $2.
_${name}_offer() {
  local cur=$1 kind=\${2%% *} words=\${2#* } line quoted
  COMPREPLY=()
  case $kind in
    words) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
    files) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    folders) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
    text) ;;
    *)
      while IFS=$'\\t' read -r line _; do
        printf -v quoted %q "$line"
        [[ $line == "$cur"* || $quoted == "$cur"* ]] && COMPREPLY+=("$quoted")
      done < <("$_${name}_program" complete-words "$kind" -- "\${_${name}_typed[@]}" 2>/dev/null </dev/null)
      ;;
  esac
}

_${name}() {
  local cur words cword path= at=1 word option= value i
  if declare -F _get_comp_words_by_ref >/dev/null; then
    _get_comp_words_by_ref -n =: cur words cword
  else
    # bash itself takes --target=/x apart.
    words=() cword=-1
    for (( i = 0; i <= COMP_CWORD; i++ )); do
      word=\${COMP_WORDS[i]}
      if [[ $cword -ge 0 && ( $word == = || \${COMP_WORDS[i-1]} == = ) ]]; then
        words[cword]+=$word
      else
        words[++cword]=$word
      fi
    done
    cur=\${words[cword]}
  fi
  local _${name}_program=\${words[0]} _${name}_typed=("\${words[@]:1:cword-1}")
  for (( i = at; i < cword; i++ )); do
    word=\${words[i]}
    if [[ -n $option ]]; then option=; continue; fi
    if [[ $word == -* ]]; then
      value=\${_${name}_values["/$path $word"]-}
      [[ -n $value && $value != '= '* ]] && option=$word
    elif [[ -n \${_${name}_paths["\${path:+$path }$word"]-} ]]; then
      path=\${_${name}_paths["\${path:+$path }$word"]}
    fi
  done
  if [[ -n $option ]]; then
    _${name}_offer "$cur" "\${_${name}_values["/$path $option"]}"
  elif [[ $cur == --*=* ]]; then
    value=\${_${name}_values["/$path \${cur%%=*}"]-}
    _${name}_offer "\${cur#*=}" "\${value#= }"
    # Without bash-completion the shell takes the word apart at the =.
    [[ \${COMP_WORDBREAKS-} == *=* ]] || COMPREPLY=("\${COMPREPLY[@]/#/\${cur%%=*}=}")
    return
  elif [[ $cur == -* ]]; then
    _${name}_offer "$cur" "words \${_${name}_options["/$path"]}"
  elif [[ -n \${_${name}_commands["/$path"]-} ]]; then
    _${name}_offer "$cur" "words \${_${name}_commands["/$path"]}"
  else
    _${name}_offer "$cur" "\${_${name}_arguments["/$path"]-files}"
  fi
  declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "$cur"
  return 0
}

complete -F _${name} ${name}
`;
}

/** bash has no empty key. */
function keyOf(path: string): string {
  return `/${path}`;
}

function inWords(value: ValueKind): string {
  return value.kind === 'words' ? `words ${value.words.join(' ')}` : value.kind;
}
