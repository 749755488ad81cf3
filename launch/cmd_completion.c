/* completion: a script that lets a shell complete commands, options, their words and the keys of
 * --set. It is made from the tables that also parse, so it knows what this build knows. */
#include <stdio.h>
#include <string.h>

#include "launch/commands_impl.h"
#include "train/train_config.h"

/* "copy|noise|drop" of "copy|noise|drop CONFIG.yaml" as words with spaces between; nothing where
 * the text offers no choice. */
static void print_words(const char *text)
{
    size_t n = text != NULL ? strcspn(text, " ") : 0;
    if (n > 0 && memchr(text, '|', n) != NULL) {
        for (size_t i = 0; i < n; i++) {
            putchar(text[i] == '|' ? ' ' : text[i]);
        }
    }
}

static void print_commands(void)
{
    for (const sy_command *const *c = sy_commands; *c != NULL; c++) {
        printf("%s ", (*c)->name);
    }
}

static void print_keys(void)
{
    int32_t n = 0;
    const sy_config_section *const *sections = sy_train_sections(&n);
    for (int32_t i = 0; i < n; i++) {
        for (const sy_config_key *k = sections[i]->keys; k->name != NULL; k++) {
            printf("%s.%s= ", sections[i]->name, k->name);
        }
    }
}

/* ---- bash, and zsh through its bashcompinit ---- */

static void print_bash_command(const sy_command *c)
{
    printf("    %s)\n        operands='", c->name);
    print_words(c->operands);
    printf("' options='--help");
    for (const sy_option *o = c->options; o->name != NULL; o++) {
        printf(" --%s", o->name);
    }
    printf("'\n        case $previous in\n");
    for (const sy_option *o = c->options; o->name != NULL; o++) {
        if (o->kind != SY_OPTION_FLAG) {
            printf("        --%s) value=y words='", o->name);
            if (strcmp(o->arg, "KEY=VALUE") == 0) {
                printf("'$keys");
            } else {
                print_words(o->arg);
                putchar('\'');
            }
            printf(" ;;\n");
        }
    }
    printf("        esac ;;\n");
}

static void print_bash(void)
{
    printf("# bash completion of switchyard. For this shell: eval \"$(switchyard completion "
           "bash)\"\n"
           "_switchyard() {\n"
           "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
           "    local words='' options='' operands='' value='' keys='");
    print_keys();
    printf("'\n    COMPREPLY=()\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        words='");
    print_commands();
    printf("--help --version'\n"
           "        COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
           "        return\n    fi\n"
           "    case ${COMP_WORDS[1]} in\n");
    for (const sy_command *const *c = sy_commands; *c != NULL; c++) {
        print_bash_command(*c);
    }
    printf("    esac\n"
           "    if [ -z \"$value\" ]; then\n"
           "        case $current in\n"
           "        -*) words=$options ;;\n"
           "        *) [ \"$COMP_CWORD\" -ne 2 ] || words=$operands ;;\n"
           "        esac\n    fi\n"
           "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
           "    case ${COMPREPLY[0]-} in *=) compopt -o nospace 2>/dev/null || true ;; esac\n"
           "}\n"
           "complete -o default -F _switchyard switchyard\n");
}

/* ---- fish ---- */

static void print_quoted(const char *text)
{
    putchar('\'');
    for (; *text != '\0'; text++) {
        printf(*text == '\'' || *text == '\\' ? "\\%c" : "%c", *text);
    }
    putchar('\'');
}

static void print_fish_option(const sy_command *c, const sy_option *o)
{
    printf("complete -c switchyard -n '__fish_seen_subcommand_from %s' -l %s", c->name, o->name);
    if (strcmp(o->name, "output") == 0) {
        printf(" -s o");
    }
    if (o->kind == SY_OPTION_VALUE || o->kind == SY_OPTION_LIST) {
        printf(" -r");
    }
    if (o->arg != NULL && strcmp(o->arg, "KEY=VALUE") == 0) {
        printf(" -x -a \"$keys\"");
    } else if (o->arg != NULL && memchr(o->arg, '|', strcspn(o->arg, " ")) != NULL) {
        printf(" -x -a '");
        print_words(o->arg);
        putchar('\'');
    }
    printf(" -d ");
    print_quoted(o->help);
    putchar('\n');
}

static void print_fish(void)
{
    printf("# fish completion of switchyard. For this shell: switchyard completion fish | source\n"
           "set -l keys '");
    print_keys();
    printf("'\n");
    for (const sy_command *const *c = sy_commands; *c != NULL; c++) {
        printf("complete -c switchyard -f -n __fish_use_subcommand -a %s -d ", (*c)->name);
        print_quoted((*c)->help);
        putchar('\n');
        if (memchr((*c)->operands, '|', strcspn((*c)->operands, " ")) != NULL) {
            printf("complete -c switchyard -n '__fish_seen_subcommand_from %s' -a '", (*c)->name);
            print_words((*c)->operands);
            printf("'\n");
        }
        for (const sy_option *o = (*c)->options; o->name != NULL; o++) {
            print_fish_option(*c, o);
        }
    }
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    const char *shell = cli->operand[0];
    (void)env, (void)exit_code;
    if (strcmp(shell, "zsh") == 0) {
        printf("autoload -U +X bashcompinit && bashcompinit\n");
        print_bash();
    } else if (strcmp(shell, "bash") == 0) {
        print_bash();
    } else if (strcmp(shell, "fish") == 0) {
        print_fish();
    } else {
        SY_TRY(sy_error(SY_ERR_USAGE, "completion: '%s' is not one of bash, zsh, fish", shell));
    }
cleanup:
    return st;
}

static const sy_option options[] = {{0}};

const sy_command sy_cmd_completion = {
    .name = "completion",
    .operands = "bash|zsh|fish",
    .help = "A script that makes the shell complete commands, options and configuration keys.",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .alone = true,
    .run = run};
