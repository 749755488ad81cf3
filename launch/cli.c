#include "launch/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/config.h"
#include "report/text.h"

static int32_t count_options(const sy_command *command)
{
    int32_t n = 0;
    while (command->options[n].name != NULL) {
        n++;
    }
    return n;
}

static int32_t find_option(const sy_command *command, const char *name, size_t n)
{
    for (int32_t i = 0; command->options[i].name != NULL; i++) {
        if (strlen(command->options[i].name) == n &&
            strncmp(command->options[i].name, name, n) == 0) {
            return i;
        }
    }
    return -1;
}

static sy_status unknown_option(const sy_command *command, const char *arg)
{
    const char *names[SY_MAX_OPTIONS];
    int32_t n = count_options(command);
    char word[64];
    for (int32_t i = 0; i < n; i++) {
        names[i] = command->options[i].name;
    }
    size_t len = strcspn(arg + 2, "=");
    snprintf(word, sizeof word, "%.*s", (int)(len < 60 ? len : 60), arg + 2);
    const char *near = sy_nearest_name(word, names, n);
    return near != NULL
               ? sy_error(SY_ERR_USAGE, "%s: unknown option '--%s' (did you mean '--%s'?)",
                          command->name, word, near)
               : sy_error(SY_ERR_USAGE, "%s: unknown option '--%s'; see switchyard %s --help",
                          command->name, word, command->name);
}

static bool is_option(const char *arg)
{
    return arg[0] == '-' && arg[1] == '-' && arg[2] != '\0';
}

typedef struct parser {
    const sy_command *command;
    int argc, at;
    char **argv;
    sy_cli *cli;
} parser;

static sy_status add_to_list(sy_cli *cli, int32_t i, const char *value)
{
    sy_status st = SY_OK;
    SY_TRY(sy_realloc(cli->n_list[i] + 1, sizeof *cli->list[i], (void **)&cli->list[i]));
    cli->list[i][cli->n_list[i]++] = value;
cleanup:
    return st;
}

/* The value after '=' or the next argument; NULL if there is none. */
static const char *take_value(parser *p, const char *equals, bool optional)
{
    if (equals != NULL) {
        return equals + 1;
    }
    bool next = p->at + 1 < p->argc && !is_option(p->argv[p->at + 1]);
    if (optional && p->cli->n_operands < p->command->max_operands) {
        next = false; /* what follows is the operand */
    }
    return next ? p->argv[++p->at] : NULL;
}

static sy_status parse_option(parser *p)
{
    sy_status st = SY_OK;
    const char *arg = p->argv[p->at], *equals = strchr(arg, '=');
    size_t n = equals != NULL ? (size_t)(equals - arg) - 2 : strlen(arg) - 2;
    int32_t i = find_option(p->command, arg + 2, n);
    const char *value = NULL;

    if (i < 0) {
        SY_TRY(unknown_option(p->command, arg));
    }
    const sy_option *option = &p->command->options[i];
    SY_REQUIRE(option->kind == SY_OPTION_LIST || !p->cli->given[i], SY_ERR_USAGE,
               "%s: option --%s is given twice", p->command->name, option->name);
    SY_REQUIRE(option->kind != SY_OPTION_FLAG || equals == NULL, SY_ERR_USAGE,
               "%s: option --%s takes no value", p->command->name, option->name);
    p->cli->given[i] = true;
    if (option->kind == SY_OPTION_FLAG) {
        goto cleanup;
    }
    value = take_value(p, equals, option->kind == SY_OPTION_OPTIONAL);
    SY_REQUIRE(value != NULL || option->kind == SY_OPTION_OPTIONAL, SY_ERR_USAGE,
               "%s: option --%s needs a value: --%s %s", p->command->name, option->name,
               option->name, option->arg);
    p->cli->value[i] = value;
    while (option->kind == SY_OPTION_LIST && value != NULL) {
        SY_TRY(add_to_list(p->cli, i, value));
        value = p->command->greedy_lists && equals == NULL ? take_value(p, NULL, false) : NULL;
    }
cleanup:
    return st;
}

static sy_status parse_operand(parser *p)
{
    sy_status st = SY_OK;
    sy_cli *cli = p->cli;
    SY_REQUIRE(p->command->max_operands < 0 || cli->n_operands < p->command->max_operands,
               SY_ERR_USAGE, "%s: unexpected argument '%s'; usage: switchyard %s %s",
               p->command->name, p->argv[p->at], p->command->name, p->command->operands);
    SY_TRY(sy_realloc(cli->n_operands + 1, sizeof *cli->operand, (void **)&cli->operand));
    cli->operand[cli->n_operands++] = p->argv[p->at];
cleanup:
    return st;
}

sy_status sy_cli_parse(const sy_command *command, int argc, char **argv, sy_cli *out)
{
    sy_status st = SY_OK;
    sy_cli cli = {.command = command};
    parser p = {.command = command, .argc = argc, .at = 2, .argv = argv, .cli = &cli};
    for (; p.at < argc; p.at++) {
        if (strcmp(argv[p.at], "-o") == 0) {
            argv[p.at] = "--output"; /* the one short option */
        }
        SY_TRY(is_option(argv[p.at]) ? parse_option(&p) : parse_operand(&p));
    }
    SY_REQUIRE(cli.n_operands >= command->min_operands, SY_ERR_USAGE,
               "%s: an argument is missing; usage: switchyard %s %s", command->name, command->name,
               command->operands);
    *out = cli;
    cli = (sy_cli){0};
cleanup:
    sy_cli_free(&cli);
    return st;
}

void sy_cli_free(sy_cli *cli)
{
    sy_free(&cli->operand);
    for (int32_t i = 0; i < SY_MAX_OPTIONS; i++) {
        sy_free(&cli->list[i]);
    }
    *cli = (sy_cli){0};
}

enum { HELP_COLUMN = 31, HELP_WIDTH = 100 };

void sy_cli_wrap(sy_text *out, int64_t line, int32_t column, const char *words)
{
    bool first = true;
    sy_text_printf(out, "%*s", (int)(column - (out->n - line)), "");
    for (const char *word = words; *word != '\0'; word += strspn(word, " ")) {
        int n = (int)strcspn(word, " ");
        if (!first && out->n - line + 1 + n > HELP_WIDTH) {
            sy_text_puts(out, "\n");
            line = out->n;
            sy_text_printf(out, "%*s", (int)column, "");
            first = true;
        }
        sy_text_printf(out, first ? "%.*s" : " %.*s", n, word);
        first = false;
        word += n;
    }
    sy_text_puts(out, "\n");
}

/* An option's words, and its help in a column of its own. */
static void put_option(sy_text *out, const sy_option *o)
{
    int64_t line = out->n;
    sy_text_printf(out, "  %s%s%s%s", strcmp(o->name, "output") == 0 ? "-o, --" : "--", o->name,
                   o->arg != NULL ? " " : "", o->arg != NULL ? o->arg : "");
    if (out->n - line > HELP_COLUMN - 2) {
        sy_text_puts(out, "\n");
        line = out->n;
    }
    sy_cli_wrap(out, line, HELP_COLUMN, o->help);
}

sy_status sy_cli_help(const sy_command *command, char **out)
{
    sy_text text = {0};
    const bool any = command->options[0].name != NULL;
    sy_text_printf(&text, "Usage: switchyard %s%s%s%s\n\n", command->name,
                   command->operands[0] != '\0' ? " " : "", command->operands,
                   any ? " [OPTIONS]" : "");
    sy_cli_wrap(&text, text.n, 0, command->help);
    sy_text_puts(&text, any ? "\nOptions:\n" : "");
    for (const sy_option *o = command->options; o->name != NULL; o++) {
        put_option(&text, o);
    }
    sy_status st = text.st;
    if (st == SY_OK) {
        *out = text.data; /* now the caller's */
    } else {
        sy_text_free(&text);
    }
    return st;
}

static int32_t index_of(const sy_cli *cli, const char *name)
{
    return find_option(cli->command, name, strlen(name));
}

bool sy_cli_given(const sy_cli *cli, const char *name)
{
    return cli->given[index_of(cli, name)];
}

const char *sy_cli_text(const sy_cli *cli, const char *name)
{
    return cli->value[index_of(cli, name)];
}

const char *const *sy_cli_list(const sy_cli *cli, const char *name, int32_t *n)
{
    int32_t i = index_of(cli, name);
    *n = cli->n_list[i];
    return cli->list[i];
}

sy_status sy_cli_i64(const sy_cli *cli, const char *name, int64_t min, int64_t max, int64_t *out)
{
    sy_status st = SY_OK;
    const char *text = sy_cli_text(cli, name);
    char *end = NULL;
    long long value;
    if (text == NULL) {
        return SY_OK;
    }
    errno = 0;
    value = strtoll(text, &end, 10);
    SY_REQUIRE(errno == 0 && end != text && *end == '\0' && value >= min && value <= max,
               SY_ERR_USAGE, "--%s: '%s' is not a whole number from %ld to %ld", name, text,
               (long)min, (long)max);
    *out = value;
cleanup:
    return st;
}

sy_status sy_cli_f64(const sy_cli *cli, const char *name, double min, double max, double *out)
{
    sy_status st = SY_OK;
    const char *text = sy_cli_text(cli, name);
    char *end = NULL;
    double value;
    if (text == NULL) {
        return SY_OK;
    }
    value = strtod(text, &end);
    SY_REQUIRE(end != text && *end == '\0' && value >= min && value <= max, SY_ERR_USAGE,
               "--%s: '%s' is not a number from %g to %g", name, text, min, max);
    *out = value;
cleanup:
    return st;
}
