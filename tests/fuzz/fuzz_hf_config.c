/* Mutated config.json: refused with one clean line, or turned into settings that the program
   accepts, that the architecture can hold, and that come back the same from the config.json that is
   written of them; small ones also have complete maps of tensors. No crash, no leak. Deterministic:
   case i is a function of i and of the corpus. fuzz_hf_config CORPUS [CASES [FIRST]]

   With -DSY_LIBFUZZER and clang's -fsanitize=fuzzer it is a target of libFuzzer. */
#include <jansson.h>

#include "core/alloc.h"
#include "tests/support/fuzz.h"
#include "train/train_config.h"
#include "upcycle/hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_harmless(const char *text)
{
    for (const char *c = text; *c != '\0'; c++) {
        if (*c < 0x20 || *c > 0x7e) {
            return false;
        }
    }
    return *text != '\0';
}

static char *write_config(sy_hf_arch arch, const sy_run_settings *s, const char *source)
{
    char *json = NULL;
    PROVE(sy_hf_config_write(&(sy_hf_config_spec){.arch = arch,
                                                  .model = s->model,
                                                  .moe = s->moe,
                                                  .dtype = SY_BF16,
                                                  .source_json = source},
                             &json) == SY_OK);
    return json;
}

static void read_config(const char *json, sy_hf_arch *arch, sy_run_settings *s)
{
    char *yaml = NULL;
    PROVE(sy_hf_config_read("c.json", json, strlen(json), arch, &yaml) == SY_OK);
    PROVE(sy_run_settings_parse(yaml, strlen(yaml), "yaml", NULL, 0, s) == SY_OK);
    sy_free(&yaml);
}

static void prove_maps(sy_hf_arch arch, const sy_run_settings *s)
{
    for (int32_t form = 0; form < 2; form++) {
        sy_hf_map map;
        PROVE(sy_hf_map_create(arch, (sy_hf_form)form, s->model, s->moe, &map) == SY_OK);
        sy_hf_map_free(&map);
    }
}

/* What was accepted, as far as the program would go with it. */
static void prove_settings(const char *yaml, sy_hf_arch arch, const char *source)
{
    sy_run_settings s = {0}, again = {0};
    sy_hf_arch arch_again = SY_N_HF_ARCHS;
    PROVE(sy_run_settings_parse(yaml, strlen(yaml), "yaml", NULL, 0, &s) == SY_OK);
    PROVE(sy_hf_can_hold(arch, s.model, s.moe) == SY_OK);
    char *json = write_config(arch, &s, source);
    read_config(json, &arch_again, &again);
    char *second = write_config(arch_again, &again, json);
    PROVE(arch_again == arch && strcmp(json, second) == 0);
    if (s.model->layers <= 4 && s.model->layers * s.moe->experts <= 64) {
        prove_maps(arch, &again);
    }
    sy_free(&second);
    sy_free(&json);
    sy_run_settings_free(&again);
    sy_run_settings_free(&s);
}

static bool try_input(const uint8_t *bytes, size_t n)
{
    sy_hf_arch arch = SY_N_HF_ARCHS;
    char *yaml = NULL;
    sy_status st = sy_hf_config_read("c.json", (const char *)bytes, n, &arch, &yaml);
    if (st == SY_OK) {
        char *source = calloc(1, n + 1);
        PROVE(source);
        memcpy(source, bytes, n);
        prove_settings(yaml, arch, source);
        free(source);
    } else {
        PROVE(st == SY_ERR_USAGE && !yaml && arch == SY_N_HF_ARCHS);
        PROVE(strstr(sy_error_message(), "c.json") && is_harmless(sy_error_message()));
        sy_error_clear();
    }
    sy_free(&yaml);
    PROVE(sy_alloc_live() == 0);
    return st == SY_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    (void)try_input(data, size);
    return 0;
}

#ifndef SY_LIBFUZZER

static const char *const pieces[] = {
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    " ",
    "\n",
    "0",
    "1",
    "-1",
    "2",
    "3",
    "8",
    "64",
    "1048577",
    "9223372036854775807",
    "9223372036854775808",
    "1.0",
    "0.5",
    "1e-5",
    "1e308",
    "1e309",
    "null",
    "true",
    "false",
    "\"silu\"",
    "\"head_dim\":",
    "\"num_key_value_heads\":",
    "\"num_experts\":",
    "\"num_local_experts\":",
    "\"num_experts_per_tok\":",
    "\"num_hidden_layers\":",
    "\"hidden_size\":",
    "\"norm_topk_prob\":",
    "\"mlp_only_layers\":",
    "\"decoder_sparse_step\":",
    "\"sliding_window\":",
    "\"use_sliding_window\":",
    "\"layer_types\":",
    "\"rope_scaling\":",
    "\"rope_parameters\":",
    "{\"rope_type\":\"linear\",\"factor\":2.0}",
    "\"rope_theta\":",
    "\"partial_rotary_factor\":",
    "\"quantization_config\":",
    "\"attention_multiplier\":",
    "\"qkv_bias\":",
    "\"model_type\":\"mixtral\"",
    "\"model_type\":\"qwen2_moe\"",
    "\"architectures\":",
    "\\u0000",
    "\\ud800",
    "\\u0007",
    "\xff",
    "\xc2\x9b",
};

/* Where a value begins: behind a colon. */
static size_t value_at(dice *d, const input *in)
{
    size_t at = below(d, in->n + 1);
    while (at < in->n && in->bytes[at] != ':') {
        at++;
    }
    return at < in->n ? at + 1 : at;
}

static void mutate_once(dice *d, input *in)
{
    const size_t any = below(d, in->n + 1), value = value_at(d, in);
    const size_t rest = in->n - any, n = rest > 0 ? 1 + below(d, rest) : 0;
    const char *piece = pieces[below(d, COUNT_OF(pieces))];
    const uint8_t byte = (uint8_t)below(d, 256), digit = (uint8_t)('0' + below(d, 10));
    size_t end = value;
    switch (below(d, 8)) {
    case 0: /* another byte */
        splice(in, any, rest > 0 ? 1 : 0, &byte, 1);
        break;
    case 1: /* a piece of syntax in between */
        splice(in, any, 0, piece, strlen(piece));
        break;
    case 2: /* a part gone */
        splice(in, any, n < 16 ? n : 0, "", 0);
        break;
    case 3: /* the end gone */
        in->n = below(d, 8) > 0 ? in->n : any;
        break;
    case 4: /* another digit */
        while (end < in->n && (in->bytes[end] < '0' || in->bytes[end] > '9')) {
            end++;
        }
        splice(in, end, end < in->n ? 1 : 0, &digit, 1);
        break;
    default: /* another value */
        while (end < in->n && in->bytes[end] != ',' && in->bytes[end] != '\n') {
            end++;
        }
        splice(in, value, end - value, piece, strlen(piece));
    }
}

static bool run_case(dice *d, const input *seeds, size_t n_seeds)
{
    input in;
    input_copy(&in, &seeds[below(d, n_seeds)]);
    for (size_t i = below(d, 4); i > 0; i--) {
        mutate_once(d, &in);
    }
    return try_exact(try_input, &in);
}

int main(int argc, char **argv)
{
    size_t n_seeds = 0;
    PROVE(argc > 1);
    input *seeds = read_corpus(argv[1], &n_seeds);
    const int64_t n = argc > 2 ? atoll(argv[2]) : 10000, first = argc > 3 ? atoll(argv[3]) : 0;
    int64_t n_accepted = 0;
    for (int64_t i = first; i < first + n; i++) {
        dice d = dice_of(i);
        n_accepted += run_case(&d, seeds, n_seeds);
    }
    free(seeds);
    printf("%" PRId64 " configurations, %" PRId64 " accepted\n", n, n_accepted);
    /* Both ways must have been taken, or the mutations are too wild or too tame. */
    return n >= 1000 && (n_accepted < n / 20 || n_accepted > n * 19 / 20);
}

#endif
