/* Mutated safetensors headers and indexes: refused with one clean line, or read within bounds and
   as an independent reading of the JSON has it; no crash, no leak. Deterministic: case i is a
   function of i and of the corpus. fuzz_safetensors CORPUS [CASES [FIRST]]

   An input is tried as a file, and as the number of data bytes and a header. With libFuzzer:

   clang -g -O1 -std=c11 -D_GNU_SOURCE -DSY_LIBFUZZER -fsanitize=fuzzer,address,undefined \
     -fno-sanitize-recover=undefined -I. tests/fuzz/fuzz_safetensors.c \
     checkpoint/safetensors_{json,parse,set,types}.c core/{alloc,status}.c -ljansson -o fuzz
   ./fuzz -max_len=512 -runs=10000000 FOLDER tests/fuzz/corpus/safetensors */
#include <jansson.h>

#include "checkpoint/safetensors.h"
#include "core/alloc.h"
#include "tests/support/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One line of UTF-8 (as jansson sees it) without control characters. */
static bool is_harmless(const char *text)
{
    json_t *string = json_string(text);
    bool harmless = string && *text;
    json_decref(string);
    for (const unsigned char *c = (const unsigned char *)text; *c && harmless; c++) {
        harmless = *c >= 0x20 && *c != 0x7f && !(c[0] == 0xc2 && c[1] < 0xa0);
    }
    return harmless;
}

static int32_t bits_of(const char *type)
{
    static const struct {
        const char *name;
        int32_t bits;
    } odd[] = {{"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"BF16", 16}, {"C64", 64}};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        if (strcmp(odd[i].name, type) == 0) {
            return odd[i].bits;
        }
    }
    return (int32_t)strtol(type + 1, NULL, 10); /* F32, I8, F8_E4M3 */
}

/* The whole header as one tree says the same of the tensor. */
static void prove_tensor(const json_t *root, const sy_st_tensor *t, const uint8_t *data)
{
    const json_t *entry = json_object_get(root, t->name), *shape = json_object_get(entry, "shape");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const int64_t begin = json_integer_value(json_array_get(offsets, 0));
    unsigned __int128 bits = (unsigned __int128)bits_of(t->type_name);
    PROVE(entry && strcmp(json_string_value(json_object_get(entry, "dtype")), t->type_name) == 0);
    PROVE(json_array_size(shape) == (size_t)t->n_dim);
    for (int32_t d = 0; d < t->n_dim; d++) {
        PROVE(json_integer_value(json_array_get(shape, (size_t)d)) == t->shape[d]);
        PROVE(t->shape[d] >= 0 && bits <= (unsigned __int128)INT64_MAX);
        bits *= (unsigned __int128)t->shape[d];
    }
    PROVE(bits == (unsigned __int128)t->bytes * 8);
    PROVE((const uint8_t *)t->data == data + begin);
    PROVE(json_integer_value(json_array_get(offsets, 1)) == begin + t->bytes);
}

static void prove_set(const sy_st_set *set, const uint8_t *file, size_t n)
{
    uint64_t length = 0, sum = 0;
    PROVE(n >= 8);
    memcpy(&length, file, 8);
    PROVE(length <= n - 8);
    const uint8_t *data = file + 8 + length;
    json_t *root = json_loadb((const char *)file + 8, length, JSON_REJECT_DUPLICATES, NULL);
    PROVE(root);
    PROVE(json_object_size(root) - (json_object_get(root, "__metadata__") != NULL) ==
          (size_t)set->n);
    for (int64_t i = 0; i < set->n; i++) {
        const sy_st_tensor *t = &set->tensor[i];
        PROVE(i == 0 || strcmp(t[-1].name, t->name) < 0);
        PROVE(sy_st_find(set, t->name) == t);
        prove_tensor(root, t, data);
        sum += (uint64_t)t->bytes;
        for (int64_t k = 0; k < i; k++) { /* few: inputs are small */
            const sy_st_tensor *other = &set->tensor[k];
            PROVE((const char *)other->data + other->bytes <= (const char *)t->data ||
                  (const char *)t->data + t->bytes <= (const char *)other->data);
        }
    }
    PROVE(sum == n - 8 - length && (uint64_t)set->bytes == sum);
    json_decref(root);
}

static bool try_file(const uint8_t *bytes, size_t n)
{
    sy_st_set *set = NULL;
    sy_status st = sy_st_parse("m.st", bytes, (int64_t)n, &set);
    if (st == SY_OK) {
        prove_set(set, bytes, n);
    } else {
        PROVE(st == SY_ERR_USAGE && !set && strstr(sy_error_message(), "'m.st'"));
        PROVE(is_harmless(sy_error_message()));
        sy_error_clear();
    }
    sy_st_close(&set);
    PROVE(sy_alloc_live() == 0);
    return st == SY_OK;
}

/* In memory of exactly its size, so that a sanitizer finds a read past it. */
static bool try_header(const uint8_t *header, size_t n_header, size_t n_data)
{
    const uint64_t length = n_header;
    uint8_t *file = calloc(1, 8 + n_header + n_data);
    PROVE(file);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, n_header);
    bool accepted = try_file(file, 8 + n_header + n_data);
    free(file);
    return accepted;
}

static bool try_input(const uint8_t *bytes, size_t n)
{
    const bool as_file = try_file(bytes, n);
    const bool as_header = n > 0 && try_header(bytes + 1, n - 1, bytes[0]);
    return as_file || as_header;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    (void)try_input(data, size);
    return 0;
}

#ifndef SY_LIBFUZZER

#include "core/log.h"
#include "tests/support/scratch.h"

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
    "4",
    "8",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551614",
    "4294967296",
    "1.0",
    "1e3",
    "null",
    "true",
    "\"dtype\":",
    "\"shape\":",
    "\"data_offsets\":",
    "[0,4]",
    "[0,0]",
    "[4,8]",
    "[]",
    "\"F32\"",
    "\"F4\"",
    "\"BF16\"",
    "\"F8_E4M3\"",
    "\"__metadata__\":",
    "{\"a\":\"b\"}",
    "\\u0000",
    "\\ud800",
    "\\u0061",
    "\xff",
    "\xc2\x9b",
    "\xe2\x82",
    "\"a\":",
    "\"b\":",
    "\"weight_map\":{",
    "\"1.safetensors\"",
    "\"2.safetensors\"",
    "\"../1\"",
    "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}",
    "\"c\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[4,5]}",
};
static const char *const indexes[] = {
    "{\"metadata\":{\"total_size\":12},\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2."
    "safetensors\"}}",
    "{\"weight_map\":{\"b\":\"2.safetensors\",\"a\":\"1.safetensors\",\"c\":\"2.safetensors\"}}\n",
    "{}",
};
static const char *const shards[2] = {
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
    "{\"b\":{\"dtype\":\"I16\",\"shape\":[2],\"data_offsets\":[0,4]},"
    "\"c\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
};

static void mutate_once(dice *d, input *in)
{
    const size_t at = below(d, in->n + 1), rest = in->n - at, n = rest ? 1 + below(d, rest) : 0;
    const char *piece = pieces[below(d, COUNT_OF(pieces))];
    const uint8_t byte = (uint8_t)below(d, 256);
    switch (below(d, 6)) {
    case 0: /* another byte */
        splice(in, at, rest ? 1 : 0, &byte, 1);
        break;
    case 1: /* a piece of syntax in between */
        splice(in, at, 0, piece, strlen(piece));
        break;
    case 2: /* ... in the place of something */
        splice(in, at, n < 8 ? n : 0, piece, strlen(piece));
        break;
    case 3: /* a part gone */
        splice(in, at, n < 16 ? n : 0, "", 0);
        break;
    case 4: /* a part twice */
        splice(in, below(d, in->n + 1), 0, in->bytes + at, n);
        break;
    default: /* the end gone */
        in->n = below(d, 8) ? in->n : at;
    }
}

static void mutate(dice *d, input *in)
{
    for (size_t i = below(d, 5); i > 0; i--) {
        mutate_once(d, in);
    }
}

static bool run_header(dice *d, const input *seeds, size_t n_seeds)
{
    input in;
    input_copy(&in, &seeds[below(d, n_seeds)]);
    mutate(d, &in);
    return try_exact(try_input, &in);
}

static bool run_index(dice *d, void **state)
{
    const char *text = indexes[below(d, COUNT_OF(indexes))];
    char path[2 * SCRATCH_PATH];
    sy_st_set *set = NULL;
    input in;
    in.n = strlen(text);
    memcpy(in.bytes, text, in.n);
    mutate(d, &in);
    FILE *f = fopen(scratch_path(state, "model.safetensors.index.json", path), "wb");
    PROVE(f && fwrite(in.bytes, 1, in.n, f) == in.n && fclose(f) == 0);
    sy_status st = sy_st_open(((scratch *)*state)->dir, &set);
    for (int64_t i = 0; st == SY_OK && i < set->n; i++) {
        const sy_st_tensor *t = &set->tensor[i];
        PROVE(t->name[0] >= 'a' && t->name[0] <= 'c' && t->name[1] == '\0');
        PROVE(t->bytes == 4 && memcmp(t->data, t->name[0] == 'c' ? "4567" : "0123", 4) == 0);
        PROVE(strstr(t->file, t->name[0] == 'a' ? "/1.safetensors" : "/2.safetensors"));
    }
    PROVE(st == SY_OK || (st == SY_ERR_USAGE && !set && is_harmless(sy_error_message())));
    sy_error_clear();
    sy_st_close(&set);
    PROVE(sy_alloc_live() == 0);
    return st == SY_OK;
}

static void put_shards(void **state)
{
    for (int s = 0; s < 2; s++) {
        char path[2 * SCRATCH_PATH], name[32];
        const uint64_t n = strlen(shards[s]);
        snprintf(name, sizeof name, "%d.safetensors", s + 1);
        FILE *f = fopen(scratch_path(state, name, path), "wb");
        PROVE(f && fwrite(&n, 8, 1, f) == 1 && fwrite(shards[s], n, 1, f) == 1);
        PROVE(fwrite("01234567", s == 0 ? 4 : 8, 1, f) == 1 && fclose(f) == 0);
    }
}

int main(int argc, char **argv)
{
    const uint64_t n = argc > 2 ? strtoull(argv[2], NULL, 10) : 60000;
    const uint64_t first = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    uint64_t n_accepted = 0, n_indexes = 0, n_index_accepted = 0;
    void *state = NULL;
    size_t n_seeds = 0;
    PROVE(argc > 1 && scratch_setup(&state) == 0);
    input *seeds = read_corpus(argv[1], &n_seeds);
    put_shards(&state);
    sy_log_setup(0, 1, SY_LOG_ERROR);
    for (uint64_t i = first; i < first + n; i++) {
        dice d = dice_of((int64_t)i);
        n_accepted += run_header(&d, seeds, n_seeds);
        if (i % 8 == 0) {
            n_indexes++;
            n_index_accepted += run_index(&d, &state);
        }
    }
    free(seeds);
    PROVE(scratch_teardown(&state) == 0);
    printf("%" PRIu64 " inputs, %" PRIu64 " accepted; %" PRIu64 " indexes, %" PRIu64 " accepted\n",
           n, n_accepted, n_indexes, n_index_accepted);
    /* Both outcomes must be reached, or this tests nothing. */
    return n >= 1000 &&
           (n_accepted < n / 20 || n_accepted > n * 19 / 20 || n_index_accepted < n_indexes / 20 ||
            n_index_accepted > n_indexes * 19 / 20);
}

#endif
