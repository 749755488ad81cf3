/* Keys and checks of the section `data`. */
#include "data/data_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer.h"

static const char *const objective_names[] = {"causal", "prefix_lm", "ul2", NULL};
static const char *const raw_types[] = {"auto", "u8", "u16", "u32", "u64", "i32", "i64", NULL};
static const char *const train_keys[] = {"*path", "weight", "part", NULL};
static const char *const valid_keys[] = {"*name", "*path", "part", NULL};
static const char *const part_names[] = {"train", "valid", "test", "all"};
static const char *const order_names[] = {"own", "megatron", NULL};

#define AT(field) offsetof(sy_data_config, field)

static const sy_config_key data_keys[] = {
    {"tokenizer", SY_CFG_STR, AT(tokenizer), "bytes", 0, 0, NULL,
     "Tokenizer the token files were made with: bytes, a file as `tokenize --tokenizer` takes it, "
     "or "
     "none (token ids only; then text in and out needs a tokenizer that came with the model, or "
     "--tokenizer)."},
    {"objective", SY_CFG_ENUM, AT(objective), "causal", 0, 0, objective_names,
     "What training predicts from what, with causal attention. causal: each next token; prefix_lm: "
     "the rest of a sequence from a beginning of random length; ul2: half of the sequences so, "
     "half "
     "with spans replaced by sentinels, as OpenMoE. Validation is causal."},
    {"sentinel_id", SY_CFG_I32, AT(sentinel_id), "-1", -1, INT32_MAX, NULL,
     "ul2: id of the first sentinel; the others are the ids below it (T5)."},
    {"sentinels", SY_CFG_I32, AT(sentinels), "0", 0, 1 << 20, NULL, "ul2: how many there are."},
    {"mode_ids", SY_CFG_STR_LIST, AT(mode_ids), "null", 0, 0, NULL,
     "prefix_lm, ul2: ids put before sequences to say what is asked: short spans, long or many "
     "spans, a prefix; such as [259, 258, 257]."},
    {"mask_documents", SY_CFG_BOOL, AT(mask_documents), "false", 0, 0, NULL,
     "Attention stays inside a document, and positions count from its first token. In Megatron's "
     "order, which mixes the sequences of an index, inside a sequence of it: the same where each "
     "document is one, as tokenize writes them."},
    {"raw_type", SY_CFG_ENUM, AT(raw_type), "auto", 0, 0, raw_types,
     "Type of the ids in token files without a header (nanoGPT, OLMo). auto: u16; for files named "
     ".npy the smallest that holds model.vocab_size."},
    {"eod", SY_CFG_I32, AT(eod), "-1", -1, INT32_MAX, NULL,
     "Id that ends a document in token files without an index, for mask_documents, and the targets "
     "of ul2. -1: none."},
    {"order", SY_CFG_ENUM, AT(order), "own", 0, 0, order_names,
     "Order of the training sequences. own: a closed form, no tables. megatron: that of "
     "Megatron-LM, "
     "from the same run.seed, model.seq_len, split and number of samples (train.steps times "
     "train.global_batch, or less with a ramp: other steps are another order); its tables are kept "
     "in .index files "
     "beside the data."},
    {"split", SY_CFG_STR_LIST, AT(split), "null", 0, 0, NULL,
     "Shares of train, valid and test, such as [969, 30, 1]: then data.train reads the first part "
     "of each file and data.valid the second, unless an entry has a part: train, valid, test or "
     "all."},
    {"train", SY_CFG_MAP_LIST, AT(train), "null", 0, 0, train_keys,
     "Token files to train on, each with its path (the PREFIX given to tokenize -o or to Megatron, "
     "or a .bin or .npy of llm.c, nanoGPT, OLMo) and its share of the sequences (weight, default "
     "1)."},
    {"valid", SY_CFG_MAP_LIST, AT(valid), "null", 0, 0, valid_keys,
     "Held-out token files; the loss of each is reported as valid/<name>/loss."},
    {0},
};

static const char *map_get(const sy_map *map, const char *key)
{
    for (int32_t i = 0; i < map->n; i++) {
        if (strcmp(map->entry[i].key, key) == 0) {
            return map->entry[i].value;
        }
    }
    return NULL;
}

static bool parse_weight(const char *text, double *out)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value) || value <= 0) {
        return false;
    }
    *out = value;
    return true;
}

sy_token_file_spec sy_data_file_spec(const sy_data_config *config, int64_t vocab_size)
{
    return (sy_token_file_spec){.vocab_size = vocab_size,
                                .type = config->raw_type > 0 ? raw_types[config->raw_type] : NULL,
                                .has_eod = config->eod >= 0,
                                .eod = config->eod};
}

sy_status sy_data_raw_type_check(const char *type)
{
    enum { N = sizeof raw_types / sizeof raw_types[0] - 2 };
    for (int32_t i = 1; i <= N; i++) {
        if (type == NULL || strcmp(type, raw_types[i]) == 0) {
            return SY_OK;
        }
    }
    const char *near = sy_nearest_name(type, raw_types + 1, N);
    return sy_error(SY_ERR_USAGE, "unknown type of ids '%s' (did you mean '%s'?)", type,
                    near != NULL ? near : raw_types[2]);
}

void sy_data_split(const sy_data_config *config, double share[3])
{
    for (int32_t i = 0; i < 3; i++) {
        share[i] = config->split.n == 3 ? strtod(config->split.item[i], NULL) : 0;
    }
}

/* Of an entry; -1: a word that is none. */
static int32_t part_of(const sy_data_config *config, const sy_map *map, sy_split_part with_split)
{
    const char *part = map_get(map, "part");
    if (part == NULL) {
        return config->split.n > 0 ? with_split : SY_SPLIT_ALL;
    }
    for (int32_t i = 0; i < 4; i++) {
        if (strcmp(part, part_names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

sy_data_train sy_data_train_entry(const sy_data_config *config, int32_t i)
{
    const sy_map *map = &config->train.item[i];
    sy_data_train entry = {map_get(map, "path"), 1.0,
                           (sy_split_part)part_of(config, map, SY_SPLIT_TRAIN)};
    const char *weight = map_get(map, "weight");
    if (weight != NULL) {
        (void)parse_weight(weight, &entry.weight); /* the section's check saw it succeed */
    }
    return entry;
}

sy_data_valid sy_data_valid_entry(const sy_data_config *config, int32_t i)
{
    const sy_map *map = &config->valid.item[i];
    return (sy_data_valid){.name = map_get(map, "name"),
                           .path = map_get(map, "path"),
                           .part = (sy_split_part)part_of(config, map, SY_SPLIT_VALID)};
}

static bool is_empty(const char *text)
{
    return text == NULL || *text == '\0';
}

static sy_status check_train(const sy_data_config *data, const sy_config *config)
{
    double sum = 0;
    for (int32_t i = 0; i < data->train.n; i++) {
        const sy_map *map = &data->train.item[i];
        const char *weight = map_get(map, "weight");
        double value = 1;
        if (is_empty(map_get(map, "path"))) {
            return sy_config_error(config, "data.train", "entry %d of data.train has no path",
                                   i + 1);
        }
        if (weight != NULL && !parse_weight(weight, &value)) {
            return sy_config_error(config, "data.train",
                                   "data.train: weight '%s' of '%s' is not a positive number",
                                   weight, map_get(map, "path"));
        }
        sum += value;
    }
    if (!isfinite(sum)) {
        return sy_config_error(config, "data.train",
                               "data.train: the sum of the weights is not finite; weights are "
                               "shares of it, so smaller ones mean the same");
    }
    return SY_OK;
}

static sy_status check_valid(const sy_data_config *data, const sy_config *config)
{
    for (int32_t i = 0; i < data->valid.n; i++) {
        sy_data_valid entry = sy_data_valid_entry(data, i);
        if (is_empty(entry.name) || is_empty(entry.path)) {
            return sy_config_error(config, "data.valid",
                                   "entry %d of data.valid needs a name and a path", i + 1);
        }
        if (strchr(entry.name, '/') != NULL) {
            return sy_config_error(
                config, "data.valid",
                "data.valid: the name '%s' becomes part of a metric's name and may have "
                "no '/'",
                entry.name);
        }
        for (int32_t j = 0; j < i; j++) {
            if (strcmp(entry.name, sy_data_valid_entry(data, j).name) == 0) {
                return sy_config_error(config, "data.valid",
                                       "data.valid: the name '%s' is given twice", entry.name);
            }
        }
    }
    return SY_OK;
}

/* Three shares, one above 0 at least; parts only where there are some. */
static sy_status check_split(const sy_data_config *data, const sy_config *config)
{
    double sum = 0;
    for (int32_t i = 0; i < data->split.n; i++) {
        char *end = NULL;
        const char *text = data->split.item[i];
        const double share = strtod(text, &end);
        if (end == text || *end != '\0' || !isfinite(share) || share < 0) {
            return sy_config_error(config, "data.split", "data.split: '%s' is no share", text);
        }
        sum += share;
    }
    if (data->split.n > 0 && (data->split.n != 3 || !(sum > 0) || !isfinite(sum))) {
        return sy_config_error(
            config, "data.split",
            "data.split needs three shares with a finite sum, of train, valid and test, such as "
            "[969, 30, 1]");
    }
    return SY_OK;
}

static sy_status check_part(const sy_data_config *data, const sy_map *map, const char *key,
                            const sy_config *config)
{
    const char *part = map_get(map, "part");
    const int32_t known = part_of(data, map, SY_SPLIT_ALL);
    if (known < 0) {
        return sy_config_error(config, key, "%s: part '%s' is none of train, valid, test, all", key,
                               part);
    }
    if (known != SY_SPLIT_ALL && data->split.n == 0) {
        return sy_config_error(config, key, "%s: part '%s' needs data.split", key, part);
    }
    return SY_OK;
}

static sy_status check_parts(const sy_data_config *data, const sy_config *config)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < data->train.n; i++) {
        SY_TRY(check_part(data, &data->train.item[i], "data.train", config));
    }
    for (int32_t i = 0; i < data->valid.n; i++) {
        SY_TRY(check_part(data, &data->valid.item[i], "data.valid", config));
    }
cleanup:
    return st;
}

/* An id of a list; -1: it is none. */
static int32_t id_of(const char *text)
{
    char *end = NULL;
    const long id = strtol(text, &end, 10);
    return end != text && *end == '\0' && id >= 0 && id < INT32_MAX ? (int32_t)id : -1;
}

static bool is_sentinel(const sy_data_config *data, int32_t id)
{
    return id <= data->sentinel_id && id > data->sentinel_id - data->sentinels;
}

/* Ids that say what is asked must be told from each other and from the sentinels. */
static sy_status check_modes(const sy_data_config *data, const sy_config *config)
{
    const bool ul2 = data->objective == SY_OBJECTIVE_UL2;
    if (data->mode_ids.n != 0 && data->mode_ids.n != SY_N_MODES) {
        return sy_config_error(config, "data.mode_ids", "data.mode_ids needs %d ids, not %d",
                               SY_N_MODES, data->mode_ids.n);
    }
    for (int32_t i = 0; i < data->mode_ids.n; i++) {
        const int32_t id = id_of(data->mode_ids.item[i]);
        if (id < 0) {
            return sy_config_error(config, "data.mode_ids", "data.mode_ids: '%s' is no id",
                                   data->mode_ids.item[i]);
        }
        if (ul2 && is_sentinel(data, id)) {
            return sy_config_error(config, "data.mode_ids",
                                   "data.mode_ids: %d is a sentinel, too (%d .. %d)", id,
                                   data->sentinel_id - data->sentinels + 1, data->sentinel_id);
        }
        for (int32_t j = 0; j < i; j++) {
            if (id_of(data->mode_ids.item[j]) == id) {
                return sy_config_error(config, "data.mode_ids", "data.mode_ids: %d is given twice",
                                       id);
            }
        }
    }
    return SY_OK;
}

static sy_status check_objective(const sy_data_config *data, const sy_config *config)
{
    const bool ul2 = data->objective == SY_OBJECTIVE_UL2;
    if (ul2 && (data->sentinels < 1 || data->sentinel_id < data->sentinels - 1)) {
        return sy_config_error(config, "data.objective",
                               "data.objective ul2 needs data.sentinels, as many ids that no text "
                               "has, and data.sentinel_id, the largest of them");
    }
    if (ul2 && is_sentinel(data, data->eod)) {
        return sy_config_error(config, "data.eod", "data.eod: %d is a sentinel, too (%d .. %d)",
                               data->eod, data->sentinel_id - data->sentinels + 1,
                               data->sentinel_id);
    }
    if (data->objective != SY_OBJECTIVE_CAUSAL && data->mask_documents) {
        return sy_config_error(config, "data.mask_documents",
                               "data.mask_documents goes with data.objective causal");
    }
    return check_modes(data, config);
}

sy_objective_spec sy_data_objective(const sy_data_config *config, int32_t S)
{
    sy_objective_spec spec = {.objective = (sy_objective)config->objective,
                              .S = S,
                              .sentinel_id = config->sentinel_id,
                              .n_sentinels = config->sentinels,
                              .eod = config->eod};
    for (int32_t i = 0; i < SY_N_MODES; i++) {
        spec.mode_id[i] = config->mode_ids.n > 0 ? id_of(config->mode_ids.item[i]) : -1;
    }
    return spec;
}

static sy_status check_data(const void *section, const sy_config *config)
{
    sy_status st = SY_OK;
    const sy_data_config *data = section;
    if (sy_tokenizer_check(data->tokenizer) != SY_OK) {
        char why[256];
        (void)snprintf(why, sizeof why, "%s", sy_error_message());
        sy_error_clear();
        SY_TRY(sy_config_error(config, "data.tokenizer", "data.tokenizer: %s", why));
    }
    SY_TRY(check_objective(data, config));
    SY_TRY(check_split(data, config));
    SY_TRY(check_parts(data, config));
    SY_TRY(check_train(data, config));
    SY_TRY(check_valid(data, config));

cleanup:
    return st;
}

const sy_config_section sy_data_section = {
    .name = "data",
    .help = "What is read.",
    .keys = data_keys,
    .struct_bytes = sizeof(sy_data_config),
    .check = check_data,
};
