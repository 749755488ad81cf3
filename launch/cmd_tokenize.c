#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "core/thread.h"
#include "data/tokenize.h"
#include "launch/cli.h"
#include "report/progress.h"

typedef struct meter {
    sy_progress *progress;
    double t_begin;
    int64_t text_before; /* of the job that this one goes on from */
} meter;

/* The total, and from where, are known with the first call. */
static void show_progress(void *arg, int64_t n_done, int64_t n_all, int64_t n_text)
{
    meter *m = arg;
    char rate[64];
    if (m->progress == NULL) {
        m->text_before = n_text;
        if (sy_progress_create(&(sy_progress_spec){.what = "tokenize (kB)",
                                                   .start = n_done / 1000,
                                                   .total = n_all / 1000,
                                                   .plain_s = 5},
                               &m->progress) != SY_OK) {
            sy_error_clear(); /* the work goes on unseen */
        }
        return;
    }
    snprintf(rate, sizeof rate, "%.1f MB/s of text",
             (double)(n_text - m->text_before) / 1e6 / (sy_clock_s() - m->t_begin + 1e-9));
    sy_progress_update(m->progress, n_done / 1000, rate);
}

static sy_status read_options(const sy_cli *cli, sy_tokenize_spec *spec)
{
    sy_status st = SY_OK;
    int64_t workers = sy_thread_cores();
    const char *bad = sy_cli_text(cli, "bad-lines"), *utf8 = sy_cli_text(cli, "invalid-utf8");
    SY_REQUIRE(spec->prefix != NULL, SY_ERR_USAGE, "tokenize: -o PREFIX is missing");
    SY_REQUIRE(spec->tokenizer != NULL, SY_ERR_USAGE,
               "tokenize: --tokenizer bytes|FILE is missing");
    SY_REQUIRE(spec->eod == NULL || spec->append_eod, SY_ERR_USAGE,
               "tokenize: --eod goes with --append-eod");
    SY_TRY(sy_cli_i64(cli, "workers", 1, 1024, &workers));
    SY_REQUIRE(bad == NULL || strcmp(bad, "refuse") == 0 || strcmp(bad, "skip") == 0, SY_ERR_USAGE,
               "tokenize: --bad-lines %s: say refuse or skip", bad);
    SY_REQUIRE(utf8 == NULL || strcmp(utf8, "refuse") == 0 || strcmp(utf8, "replace") == 0,
               SY_ERR_USAGE, "tokenize: --invalid-utf8 %s: say replace or refuse", utf8);
    spec->n_workers = (int32_t)workers;
    spec->skip_bad_lines = bad != NULL && strcmp(bad, "skip") == 0;
    spec->refuse_invalid = utf8 != NULL && strcmp(utf8, "refuse") == 0;
    spec->match_special = sy_cli_given(cli, "special");

cleanup:
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    meter m = {.t_begin = sy_clock_s()};
    sy_tokenize_result result;
    sy_tokenize_spec spec = {.inputs = cli->operand,
                             .n_inputs = cli->n_operands,
                             .prefix = sy_cli_text(cli, "output"),
                             .tokenizer = sy_cli_text(cli, "tokenizer"),
                             .jsonl_key = sy_cli_text(cli, "jsonl-key"),
                             .append_eod = sy_cli_given(cli, "append-eod"),
                             .eod = sy_cli_text(cli, "eod"),
                             .restart = sy_cli_given(cli, "restart"),
                             .progress = show_progress,
                             .progress_arg = &m};
    (void)env, (void)exit_code;
    SY_TRY(read_options(cli, &spec));
    SY_TRY(sy_tokenize(&spec, &result));
    sy_progress_destroy(&m.progress);
    printf("%s.bin, %s.idx: %ld documents, %ld tokens, %ld bytes of text\n", spec.prefix,
           spec.prefix, (long)result.n_documents, (long)result.n_tokens, (long)result.n_bytes);
    if (result.n_bad_lines > 0) {
        printf("%ld bad lines were skipped; the first: %s\n", (long)result.n_bad_lines,
               result.first_bad);
    }
cleanup:
    sy_progress_destroy(&m.progress);
    return st;
}

static const sy_option options[] = {
    {"output", SY_OPTION_VALUE, "PREFIX", "Write PREFIX.bin and PREFIX.idx."},
    {"tokenizer", SY_OPTION_VALUE, "NAME",
     "bytes; a tokenizer.json with byte-level BPE; a rank file of tiktoken, whose name or a word "
     "before it says the encoding (cl100k:FILE; gpt2, r50k, p50k, cl100k, o200k, llama3, qwen); a "
     "SentencePiece .model; or a folder with such a file. A file needs a slash or a dot in its "
     "path."},
    {"jsonl-key", SY_OPTION_VALUE, "KEY", "The text of a .jsonl line (text)."},
    {"append-eod", SY_OPTION_FLAG, NULL, "End each document with the end-of-document id."},
    {"eod", SY_OPTION_VALUE, "TOKEN",
     "The end-of-document token for --append-eod: its text, or config: the eos_token of "
     "tokenizer_config.json in the tokenizer's folder. Default: the name that pre-trained models "
     "have for it (<|endoftext|>, ...)."},
    {"special", SY_OPTION_FLAG, NULL,
     "Special tokens that stand in the text become their ids (else they are ordinary text)."},
    {"bad-lines", SY_OPTION_VALUE, "WHAT",
     "Lines of JSONL that are not JSON or lack the key: refuse (default), or skip: they are "
     "counted "
     "and the first are named."},
    {"invalid-utf8", SY_OPTION_VALUE, "WHAT",
     "Text that is not UTF-8: replace (default) by U+FFFD, as Python's errors=\"replace\" does, or "
     "refuse. bytes takes any. In JSONL, for every tokenizer: replace too, escapes that are half "
     "of "
     "a surrogate pair (\\ud800) as well, or such a line is a bad one."},
    {"workers", SY_OPTION_VALUE, "N",
     "Threads (as many as cores); the output is the same for any number."},
    {"restart", SY_OPTION_FLAG, NULL,
     "Begin anew. Without it the same command goes on where one that died stood."},
    {0},
};

const sy_command sy_cmd_tokenize = {.name = "tokenize",
                                    .operands = "INPUT... -o PREFIX --tokenizer bytes|FILE",
                                    .help = "Text or JSONL, plain, .gz or .zst, to a token file.",
                                    .min_operands = 1,
                                    .max_operands = -1,
                                    .options = options,
                                    .alone = true,
                                    .run = run};
