/* tokenizer.json of Hugging Face tokenizers, as far as it says byte-level BPE. What would give
   other ids is refused by its name; what does not touch ids (truncation, padding, post_processor)
   is not looked at. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "data/bpe_impl.h"

enum { MAX_KEY = 4096 };

typedef struct reader {
    const char *name;
    sy__bpe *b;
} reader;

/* The byte that GPT-2's table gives code point c; -1: none. */
static int32_t byte_of(uint32_t c)
{
    if (c < 0x100) {
        return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || c >= 0xae ? (int32_t)c : -1;
    }
    const int32_t k = (int32_t)c - 0x100;
    return c > 0x143 ? -1 : k < 33 ? k : k < 67 ? k - 33 + 0x7f : 0xad;
}

/* text [n] in GPT-2's alphabet -> bytes [*n_bytes], no more than n; false: it is not. */
static bool to_bytes(const char *text, int64_t n, char *bytes, int64_t *n_bytes)
{
    const uint8_t *t = (const uint8_t *)text;
    int64_t n_out = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t c = t[i];
        if (c >= 0x80) {
            if (c >= 0xe0 || i + 1 == n) {
                return false;
            }
            c = (c & 0x1f) << 6 | (t[++i] & 0x3f);
        }
        const int32_t byte = byte_of(c);
        if (byte < 0) {
            return false;
        }
        bytes[n_out++] = (char)(uint8_t)byte;
    }
    *n_bytes = n_out;
    return true;
}

/* text for a message, out [size]: nothing but printable ASCII. */
static const char *printable(const char *text, int64_t n, char *out, int64_t size)
{
    int64_t i = 0;
    for (; i < n && i < size - 1; i++) {
        out[i] = (char)(text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?');
    }
    out[i] = '\0';
    return out;
}

/* "FILE: model.type "WordPiece" is not supported ("BPE" is)". */
static sy_status refuse(const reader *r, const char *key, const json_t *value, const char *wanted)
{
    char text[81] = "(missing)";
    if (value != NULL) {
        const size_t n = json_dumpb(value, text, sizeof text - 1,
                                    JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_COMPACT);
        text[n < sizeof text ? n : sizeof text - 1] = '\0';
    }
    return sy_error(SY_ERR_USAGE, "%s: %s %s is not supported (%s)", r->name, key, text, wanted);
}

static bool is_absent(const json_t *value)
{
    return value == NULL || json_is_null(value);
}

static bool is_text(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static sy_status add_token(reader *r, const char *text, int64_t n, json_t *id)
{
    sy_status st = SY_OK;
    char bytes[MAX_KEY], why[128], shown[64];
    int64_t n_bytes = n;
    SY_REQUIRE(n > 0 && n <= MAX_KEY, SY_ERR_USAGE, "%s: model.vocab: a token of %lld bytes",
               r->name, (long long)n);
    SY_REQUIRE(json_is_integer(id) && json_integer_value(id) >= 0 &&
                   json_integer_value(id) < SY__MAX_IDS,
               SY_ERR_USAGE, "%s: model.vocab: the id of '%s' is not a number from 0 to %d",
               r->name, printable(text, n, shown, sizeof shown), SY__MAX_IDS - 1);
    const bool plain = to_bytes(text, n, bytes, &n_bytes);
    if (sy__vocab_add(&r->b->vocab, (int32_t)json_integer_value(id), plain ? bytes : text,
                      plain ? n_bytes : n, plain) != SY_OK) {
        (void)snprintf(why, sizeof why, "%s", sy_error_message());
        sy_error_clear();
        SY_REQUIRE(false, SY_ERR_USAGE, "%s: model.vocab: '%s': %s", r->name,
                   printable(text, n, shown, sizeof shown), why);
    }

cleanup:
    return st;
}

static sy_status read_vocab(reader *r, json_t *model)
{
    sy_status st = SY_OK;
    json_t *vocab = json_object_get(model, "vocab");
    SY_REQUIRE(json_is_object(vocab), SY_ERR_USAGE, "%s: model.vocab is not an object of ids",
               r->name);
    for (void *at = json_object_iter(vocab); at != NULL; at = json_object_iter_next(vocab, at)) {
        const char *text = json_object_iter_key(at);
        SY_TRY(
            add_token(r, text, (int64_t)json_object_iter_key_len(at), json_object_iter_value(at)));
    }

cleanup:
    return st;
}

/* The two halves of merge i, "a b" or ["a", "b"]. */
static bool halves_of(const json_t *merge, const char *half[2], int64_t n[2])
{
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (space == NULL || strchr(space + 1, ' ') != NULL) {
            return false;
        }
        half[0] = text;
        n[0] = space - text;
        half[1] = space + 1;
        n[1] = (int64_t)json_string_length(merge) - n[0] - 1;
        return true;
    }
    if (!json_is_array(merge) || json_array_size(merge) != 2) {
        return false;
    }
    for (size_t k = 0; k < 2; k++) {
        const json_t *text = json_array_get(merge, k);
        if (!json_is_string(text)) {
            return false;
        }
        half[k] = json_string_value(text);
        n[k] = (int64_t)json_string_length(text);
    }
    return true;
}

static sy_status add_merge(reader *r, int32_t i, const json_t *merge)
{
    sy_status st = SY_OK;
    const char *half[2];
    char bytes[2 * MAX_KEY], shown[64];
    int64_t n[2], n_left = 0, n_right = 0;
    const sy__vocab *v = &r->b->vocab;
    SY_REQUIRE(halves_of(merge, half, n) && n[0] > 0 && n[1] > 0 && n[0] <= MAX_KEY &&
                   n[1] <= MAX_KEY,
               SY_ERR_USAGE, "%s: model.merges[%d] is not two tokens (\"a b\" or [\"a\", \"b\"])",
               r->name, i);
    SY_REQUIRE(to_bytes(half[0], n[0], bytes, &n_left) &&
                   to_bytes(half[1], n[1], bytes + n_left, &n_right),
               SY_ERR_USAGE, "%s: model.merges[%d] has a character that stands for no byte",
               r->name, i);
    const int32_t left = sy__vocab_find(v, bytes, n_left);
    const int32_t right = sy__vocab_find(v, bytes + n_left, n_right);
    const int32_t both = sy__vocab_find(v, bytes, n_left + n_right);
    SY_REQUIRE(
        left >= 0 && right >= 0 && both >= 0, SY_ERR_USAGE,
        "%s: model.merges[%d]: '%s' is not in model.vocab", r->name, i,
        printable(left < 0 ? half[0] : half[1], left < 0 ? n[0] : n[1], shown, sizeof shown));
    SY_TRY(sy__merges_add(&r->b->merges, left, right, i, both));

cleanup:
    return st;
}

static sy_status read_merges(reader *r, json_t *model)
{
    sy_status st = SY_OK;
    const json_t *merges = json_object_get(model, "merges");
    SY_REQUIRE(json_is_array(merges), SY_ERR_USAGE, "%s: model.merges is missing or not a list",
               r->name);
    for (size_t i = 0; i < json_array_size(merges); i++) {
        SY_TRY(add_merge(r, (int32_t)i, json_array_get(merges, i)));
    }

cleanup:
    return st;
}

static sy_status read_model(reader *r, json_t *model)
{
    static const char *const unset[] = {"dropout", "unk_token", "continuing_subword_prefix",
                                        "end_of_word_suffix", "byte_fallback"};
    sy_status st = SY_OK;
    char key[64];
    const json_t *type = json_object_get(model, "type");
    SY_REQUIRE(json_is_object(model), SY_ERR_USAGE, "%s: model is missing or not an object",
               r->name);
    if (!is_text(type, "BPE")) {
        SY_TRY(refuse(r, "model.type", type, "\"BPE\" is"));
    }
    for (size_t i = 0; i < sizeof unset / sizeof unset[0]; i++) {
        const json_t *value = json_object_get(model, unset[i]);
        (void)snprintf(key, sizeof key, "model.%s", unset[i]);
        if (!is_absent(value) && !is_text(value, "") && !json_is_false(value)) {
            SY_TRY(refuse(r, key, value, "byte-level BPE has none"));
        }
    }
    r->b->whole_first = json_is_true(json_object_get(model, "ignore_merges"));
    SY_TRY(read_vocab(r, model));
    SY_TRY(read_merges(r, model));

cleanup:
    return st;
}

static sy_status add_split(reader *r, const char *key, const char *text, bool literal,
                           bool drop_gaps)
{
    sy_status st = SY_OK;
    char what[512];
    (void)snprintf(what, sizeof what, "%s: %s", r->name, key);
    SY_REQUIRE(r->b->n_splits < SY__MAX_SPLITS, SY_ERR_USAGE, "%s: more than %d splits", what,
               SY__MAX_SPLITS);
    SY_TRY(sy__pattern_open(what, text, literal, drop_gaps, &r->b->split[r->b->n_splits]));
    r->b->n_splits++;

cleanup:
    return st;
}

static sy_status read_split(reader *r, const json_t *step)
{
    sy_status st = SY_OK;
    const json_t *pattern = json_object_get(step, "pattern");
    const json_t *behavior = json_object_get(step, "behavior");
    const json_t *regex = json_object_get(pattern, "Regex"),
                 *text = json_object_get(pattern, "String");
    const bool invert = json_is_true(json_object_get(step, "invert"));
    const bool drop = is_text(behavior, "Removed") && invert;
    if (!json_is_string(regex) && !json_is_string(text)) {
        SY_TRY(refuse(r, "pre_tokenizer.pattern", pattern,
                      "{\"Regex\": ..} and {\"String\": ..} are"));
    }
    if (!drop && !is_text(behavior, "Isolated")) {
        SY_TRY(refuse(r, "pre_tokenizer.behavior", behavior,
                      "\"Isolated\" is, and \"Removed\" with invert"));
    }
    SY_TRY(add_split(r, "pre_tokenizer.pattern", json_string_value(regex != NULL ? regex : text),
                     regex == NULL, drop));

cleanup:
    return st;
}

static sy_status read_byte_level(reader *r, const json_t *step, bool first)
{
    sy_status st = SY_OK;
    const json_t *regex = json_object_get(step, "use_regex");
    const json_t *space = json_object_get(step, "add_prefix_space");
    if (json_is_true(space) && !first) {
        SY_TRY(
            refuse(r, "pre_tokenizer.add_prefix_space", space, "only where nothing splits first"));
    }
    r->b->prefix_space = json_is_true(space);
    if (regex == NULL || json_is_true(regex)) {
        SY_TRY(add_split(r, "pre_tokenizer.use_regex", sy__pattern_text(SY__PATTERN_GPT2), false,
                         false));
    }

cleanup:
    return st;
}

static sy_status read_step(reader *r, const json_t *step, bool first, bool *byte_level)
{
    sy_status st = SY_OK;
    const json_t *type = json_object_get(step, "type");
    if (is_text(type, "ByteLevel")) {
        *byte_level = true;
        SY_TRY(read_byte_level(r, step, first));
    } else if (is_text(type, "Split")) {
        SY_TRY(read_split(r, step));
    } else if (is_text(type, "Digits")) {
        const bool single = json_is_true(json_object_get(step, "individual_digits"));
        SY_TRY(add_split(r, "pre_tokenizer.type", single ? "\\p{N}" : "\\p{N}+", false, false));
    } else {
        SY_TRY(refuse(r, "pre_tokenizer.type", type, "ByteLevel, Split and Digits are"));
    }

cleanup:
    return st;
}

static sy_status read_pre_tokenizer(reader *r, const json_t *pre)
{
    sy_status st = SY_OK;
    bool byte_level = false;
    const json_t *steps = json_object_get(pre, "pretokenizers");
    if (is_text(json_object_get(pre, "type"), "Sequence")) {
        for (size_t i = 0; i < json_array_size(steps); i++) {
            SY_REQUIRE(!byte_level, SY_ERR_USAGE,
                       "%s: pre_tokenizer: ByteLevel is not the last step", r->name);
            SY_TRY(read_step(r, json_array_get(steps, i), i == 0, &byte_level));
        }
    } else {
        SY_TRY(read_step(r, pre, true, &byte_level));
    }
    SY_REQUIRE(byte_level, SY_ERR_USAGE,
               "%s: pre_tokenizer has no ByteLevel: only byte-level BPE is supported", r->name);

cleanup:
    return st;
}

static sy_status read_normalizer(reader *r, const json_t *normalizer)
{
    const json_t *type = json_object_get(normalizer, "type");
    if (is_absent(normalizer)) {
        return SY_OK;
    }
    r->b->nfc = is_text(type, "NFC");
    return r->b->nfc ? SY_OK : refuse(r, "normalizer.type", type, "null and \"NFC\" are");
}

/* An added token may be in the vocabulary too, under the same id. */
static sy_status place_added(reader *r, const sy__added_token *t, const char *key)
{
    sy_status st = SY_OK;
    sy__vocab *v = &r->b->vocab;
    char bytes[MAX_KEY];
    int64_t n = t->n;
    SY_REQUIRE(n <= MAX_KEY, SY_ERR_USAGE, "%s: %s: a token of %lld bytes", r->name, key,
               (long long)n);
    if (t->id < v->n_ids && v->length[t->id] >= 0) {
        const bool plain = to_bytes(t->text, t->n, bytes, &n);
        SY_REQUIRE(v->length[t->id] == n &&
                       memcmp(v->bytes + v->at[t->id], plain ? bytes : t->text, (size_t)n) == 0,
                   SY_ERR_USAGE, "%s: %s: id %d is another token in model.vocab", r->name, key,
                   t->id);
        return SY_OK;
    }
    SY_TRY(sy__vocab_add(v, t->id, t->text, t->n, false));

cleanup:
    return st;
}

static sy_status add_added(reader *r, size_t i, const json_t *entry)
{
    sy_status st = SY_OK;
    char key[64];
    const json_t *content = json_object_get(entry, "content"), *id = json_object_get(entry, "id");
    sy__added *a = &r->b->added;
    sy__text normal = {0};
    bool same = true;
    (void)snprintf(key, sizeof key, "added_tokens[%zu]", i);
    SY_REQUIRE(json_is_string(content) && json_is_integer(id) && json_integer_value(id) >= 0 &&
                   json_integer_value(id) < SY__MAX_IDS,
               SY_ERR_USAGE, "%s: %s has no content, or no id from 0 to %d", r->name, key,
               SY__MAX_IDS - 1);
    sy__added_token t = {.id = (int32_t)json_integer_value(id),
                         .n = (int64_t)json_string_length(content),
                         .special = json_is_true(json_object_get(entry, "special")),
                         .normalized = json_is_true(json_object_get(entry, "normalized")),
                         .lstrip = json_is_true(json_object_get(entry, "lstrip")),
                         .rstrip = json_is_true(json_object_get(entry, "rstrip")),
                         .single_word = json_is_true(json_object_get(entry, "single_word"))};
    if (t.n == 0) {
        return SY_OK;
    }
    SY_TRY(sy_realloc(a->n + 1, sizeof *a->token, (void **)&a->token));
    SY_TRY(sy_alloc(t.n + 1, 1, (void **)&t.text));
    memcpy(t.text, json_string_value(content), (size_t)t.n);
    a->token[a->n++] = t;
    SY_TRY(place_added(r, &t, key));
    if (t.normalized && r->b->nfc) {
        SY_TRY(sy__utf8_nfc(t.text, t.n, &normal, &same));
        if (!same) {
            SY_TRY(sy_realloc(normal.n + 1, 1, (void **)&a->token[a->n - 1].text));
            memcpy(a->token[a->n - 1].text, normal.bytes, (size_t)normal.n);
            a->token[a->n - 1].n = normal.n;
        }
    }

cleanup:
    sy_free(&normal.bytes);
    return st;
}

/* Which token ends a document is not in the file; these are the names that models have for it. */
static void find_eod(sy__bpe *b)
{
    static const char *const names[] = {"<|endoftext|>",
                                        "<|end_of_text|>",
                                        "<\xef\xbd\x9c"
                                        "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
                                        "</s>",
                                        "<eos>",
                                        "[EOS]"};
    for (size_t k = 0; k < sizeof names / sizeof names[0] && b->eod_id < 0; k++) {
        for (int32_t i = 0; i < b->added.n; i++) {
            const sy__added_token *t = &b->added.token[i]; /* its text does not end with a zero */
            if (t->n == (int64_t)strlen(names[k]) && memcmp(t->text, names[k], (size_t)t->n) == 0) {
                b->eod_id = t->id;
            }
        }
    }
}

static sy_status read_added(reader *r, const json_t *added)
{
    sy_status st = SY_OK;
    SY_REQUIRE(is_absent(added) || json_is_array(added), SY_ERR_USAGE,
               "%s: added_tokens is not a list", r->name);
    for (size_t i = 0; i < json_array_size(added); i++) {
        SY_TRY(add_added(r, i, json_array_get(added, i)));
    }
    find_eod(r->b);

cleanup:
    return st;
}

sy_status sy__bpe_read_json(const sy_tokenizer_source *source, sy__bpe *b)
{
    sy_status st = SY_OK;
    reader r = {.name = source->name, .b = b};
    json_error_t error;
    char shown[sizeof error.text];
    json_t *root = json_loadb(source->bytes, (size_t)source->n_bytes,
                              JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    SY_REQUIRE(root != NULL, SY_ERR_USAGE, "%s:%d: not a tokenizer.json: %s", source->name,
               error.line, printable(error.text, (int64_t)strlen(error.text), shown, sizeof shown));
    SY_REQUIRE(source->encoding == NULL, SY_ERR_USAGE,
               "%s: '%s:' stands before a rank file, and this is a tokenizer.json", source->name,
               source->encoding);
    SY_TRY(read_normalizer(&r, json_object_get(root, "normalizer")));
    SY_TRY(read_pre_tokenizer(&r, json_object_get(root, "pre_tokenizer")));
    SY_TRY(read_model(&r, json_object_get(root, "model")));
    SY_TRY(read_added(&r, json_object_get(root, "added_tokens")));

cleanup:
    json_decref(root);
    return st;
}
