#include <stdio.h>

#include "data/tokenize.h"
#include "launch/cli.h"
#include "report/progress.h"

typedef struct meter {
    sy_progress *progress;
    int64_t total;
} meter;

/* The total is known with the first call. */
static void show_progress(void *arg, int64_t n_done, int64_t n_all)
{
    meter *m = arg;
    if (m->progress == NULL &&
        sy_progress_create(
            &(sy_progress_spec){.what = "tokenize (kB)", .total = n_all / 1000, .plain_s = 5},
            &m->progress) != SY_OK) {
        sy_error_clear(); /* the work goes on unseen */
        return;
    }
    sy_progress_update(m->progress, n_done / 1000, NULL);
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    meter m = {0};
    int64_t workers = 1;
    sy_tokenize_result result;
    sy_tokenize_spec spec = {.inputs = cli->operand,
                             .n_inputs = cli->n_operands,
                             .prefix = sy_cli_text(cli, "output"),
                             .tokenizer = sy_cli_text(cli, "tokenizer"),
                             .jsonl_key = sy_cli_text(cli, "jsonl-key"),
                             .append_eod = sy_cli_given(cli, "append-eod"),
                             .progress = show_progress,
                             .progress_arg = &m};
    (void)env, (void)exit_code;
    SY_REQUIRE(spec.prefix != NULL, SY_ERR_USAGE, "tokenize: -o PREFIX is missing");
    SY_REQUIRE(spec.tokenizer != NULL, SY_ERR_USAGE, "tokenize: --tokenizer bytes|FILE is missing");
    SY_TRY(sy_cli_i64(cli, "workers", 1, 1024,
                      &workers)); /* the output is the same for any number of them */
    SY_TRY(sy_tokenize(&spec, &result));
    sy_progress_destroy(&m.progress);
    printf("%s.bin, %s.idx: %ld documents, %ld tokens, %ld bytes of text\n", spec.prefix,
           spec.prefix, (long)result.n_documents, (long)result.n_tokens, (long)result.n_bytes);
cleanup:
    sy_progress_destroy(&m.progress);
    return st;
}

static const sy_option options[] = {
    {"output", SY_OPTION_VALUE, "PREFIX", "Write PREFIX.bin and PREFIX.idx."},
    {"tokenizer", SY_OPTION_VALUE, "NAME", "bytes, or a tokenizer file."},
    {"jsonl-key", SY_OPTION_VALUE, "KEY", "The text of a .jsonl line (text)."},
    {"append-eod", SY_OPTION_FLAG, NULL, "End each document with the end-of-document id."},
    {"workers", SY_OPTION_VALUE, "N", "Threads; the output is the same for any number."},
    {0},
};

const sy_command sy_cmd_tokenize = {.name = "tokenize",
                                    .operands = "INPUT... -o PREFIX --tokenizer bytes|FILE",
                                    .help = "Text or JSONL to a token file.",
                                    .min_operands = 1,
                                    .max_operands = -1,
                                    .options = options,
                                    .alone = true,
                                    .run = run};
