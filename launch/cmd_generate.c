#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "data/tokenizer.h"
#include "launch/cli.h"
#include "launch/model_load.h"
#include "parallel/agree.h"
#include "train/generate.h"

typedef struct printer {
    const sy_tokenizer *tokenizer;
    const char *prompt; /* not yet printed; a prompt that is refused never is */
    char *text;         /* room for the bytes of one token */
} printer;

static void print_prompt(printer *p)
{
    if (p->prompt != NULL) {
        fputs(p->prompt, stdout);
        p->prompt = NULL;
    }
}

/* A model may have more ids than its tokenizer has texts (padding of the vocabulary): those print
 * nothing. */
static sy_status print_token(void *arg, int32_t id)
{
    sy_status st = SY_OK;
    printer *p = arg;
    int64_t n = 0;
    print_prompt(p);
    SY_TRY(sy_tokenizer_decode(p->tokenizer, &id, 1, p->text, &n));
    SY_REQUIRE(fwrite(p->text, 1, (size_t)n, stdout) == (size_t)n && fflush(stdout) == 0, SY_ERR_IO,
               "the text cannot be written to standard output");
cleanup:
    return st;
}

/* Rank 0: tokens of the prompt. */
static sy_status encode(const sy_tokenizer *tokenizer, const char *prompt, int32_t **ids,
                        int64_t *n)
{
    sy_status st = SY_OK;
    int64_t bytes = (int64_t)strlen(prompt);
    SY_REQUIRE(bytes > 0, SY_ERR_USAGE, "generate: the prompt is empty");
    SY_TRY(sy_alloc(sy_tokenizer_max_ids(tokenizer, bytes), sizeof **ids, (void **)ids));
    SY_TRY(sy_tokenizer_encode(tokenizer, prompt, bytes, *ids, n));
cleanup:
    return st;
}

static sy_status read_options(const sy_cli *cli, sy_generate_spec *spec)
{
    sy_status st = SY_OK;
    int64_t seed = 1;
    spec->max_tokens = 128;
    spec->temperature = spec->top_p = 1;
    SY_REQUIRE(sy_cli_given(cli, "prompt"), SY_ERR_USAGE, "generate: --prompt TEXT is missing");
    SY_TRY(sy_cli_i64(cli, "max-tokens", 0, INT32_MAX, &spec->max_tokens));
    SY_TRY(sy_cli_f64(cli, "temperature", 0, 1e6, &spec->temperature));
    SY_TRY(sy_cli_f64(cli, "top-p", 0, 1, &spec->top_p));
    SY_TRY(sy_cli_i64(cli, "seed", 0, INT64_MAX, &seed));
    spec->seed = (uint64_t)seed;
cleanup:
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK, mine = SY_OK;
    sy_loaded_model model = {0};
    sy_tokenizer *tokenizer = NULL;
    sy_generate_spec spec = {0};
    printer out = {0};
    int32_t *ids = NULL, n_set = 0;
    const char *const *set = sy_cli_list(cli, "set", &n_set);

    (void)exit_code;
    SY_TRY(read_options(cli, &spec));
    SY_TRY(sy_model_load(cli->operand[0], set, n_set, SY_USE_GENERATE, env, &model));
    SY_TRY(sy_model_tokenizer(&model, sy_cli_text(cli, "tokenizer"), env->world, &tokenizer));
    tokenizer->match_special = true; /* a prompt may say where a turn begins */
    out.tokenizer = tokenizer;
    out.prompt = sy_cli_text(cli, "prompt");
    SY_TRY(sy_agree(env->world,
                    sy_alloc(sy_tokenizer_max_bytes(tokenizer, 1) + 1, 1, (void **)&out.text)));
    if (env->world->rank == 0) {
        mine = encode(tokenizer, sy_cli_text(cli, "prompt"), &ids, &spec.n_prompt);
    }
    SY_TRY(sy_agree(env->world, mine));
    spec.prompt = ids;
    spec.eod_id = tokenizer->eod_id;
    spec.emit = print_token;
    spec.arg = &out;
    SY_TRY(sy_generate(model.engine, &spec));
    if (env->world->rank == 0) {
        print_prompt(&out);
        putchar('\n');
    }
cleanup:
    sy_free(&ids);
    sy_free(&out.text);
    sy_tokenizer_close(&tokenizer);
    sy_loaded_model_free(&model);
    return st;
}

static const sy_option options[] = {
    {"prompt", SY_OPTION_VALUE, "TEXT", "The beginning of the text."},
    {"tokenizer", SY_OPTION_VALUE, "NAME",
     "As of `tokenize` (data.tokenizer, or the one that came with the model). Special tokens in "
     "the "
     "prompt are themselves."},
    {"max-tokens", SY_OPTION_VALUE, "N", "At most so many new tokens (128)."},
    {"temperature", SY_OPTION_VALUE, "T", "Sharpness of sampling; 0: always the likeliest (1)."},
    {"top-p", SY_OPTION_VALUE, "P", "Sample among the likeliest tokens that together reach P (1)."},
    {"seed", SY_OPTION_VALUE, "N", "Seed of the draws (1)."},
    {"set", SY_OPTION_LIST, "KEY=VALUE", "Override a key of the checkpoint's configuration."},
    {0},
};

const sy_command sy_cmd_generate = {.name = "generate",
                                    .operands = "CKPT --prompt TEXT",
                                    .help = "Continue a text.",
                                    .min_operands = 1,
                                    .max_operands = 1,
                                    .options = options,
                                    .run = run};
