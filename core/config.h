/* The config engine: tables of keys describe sections, one table makes the parser, its checks,
   --help-config, the docs page and the echo. It knows no key itself: each folder exports its own
   section (struct, keys, check). YAML (libyaml) in, YAML out. */
#ifndef SY_CORE_CONFIG_H
#define SY_CORE_CONFIG_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a key holds, and the C type of the field it is stored in. */
typedef enum sy_config_type {
    SY_CFG_BOOL,     /* bool */
    SY_CFG_I32,      /* int32_t */
    SY_CFG_I64,      /* int64_t */
    SY_CFG_F64,      /* double */
    SY_CFG_STR,      /* char *, owned by the config */
    SY_CFG_ENUM,     /* int32_t: index into `choices` */
    SY_CFG_OPT_F64,  /* sy_opt_f64: null is legal */
    SY_CFG_STR_LIST, /* sy_str_list: a list of texts; a lone text is a list of one */
    SY_CFG_F64_PAIR, /* double[2] */
    SY_CFG_MAP_LIST  /* sy_map_list: a list of small maps */
} sy_config_type;

typedef struct sy_opt_f64 {
    bool set;
    double value;
} sy_opt_f64;
typedef struct sy_str_list {
    char **item;
    int32_t n;
} sy_str_list;
typedef struct sy_map_entry {
    char *key, *value;
} sy_map_entry;
typedef struct sy_map {
    sy_map_entry *entry;
    int32_t n;
    int32_t line;
} sy_map;
typedef struct sy_map_list {
    sy_map *item;
    int32_t n;
} sy_map_list;

typedef struct sy_config sy_config;

typedef struct sy_config_key {
    const char *name; /* within its section: "top_k" */
    sy_config_type type;
    size_t offset;              /* of the field in the section's struct */
    const char *default_text;   /* as it would stand in YAML; NULL: required. "null" is legal for
                                   OPT_F64, STR and lists */
    double min, max;            /* inclusive, numbers only; both 0: no range */
    const char *const *choices; /* ENUM: NULL-terminated; MAP_LIST: the legal keys, the required
                                   ones with a '*' in front */
    const char *help;           /* one sentence; generates --help-config and docs/CONFIG.md */
} sy_config_key;

typedef struct sy_config_section {
    const char *name; /* "moe"; nested ones with a dot: "moe.sinkhorn" */
    const char *help;
    const sy_config_key *keys; /* ends with name NULL */
    size_t struct_bytes;
    /* Checks inside this section, after parsing. (optional) Report through sy_config_error. */
    sy_status (*check)(const void *section, const sy_config *config);
} sy_config_section;

/* Parse YAML text against sections. Not collective (rank 0 reads and broadcasts the bytes; all
   parse the same). overrides: "section.key=value" strings, later ones win. file_name appears in
   messages. Unknown and duplicate keys, wrong types and values out of range: SY_ERR_USAGE,
   "FILE:LINE: unknown key 'moe.topk' (did you mean 'moe.top_k'?)"; from --set: "--set moe.topk=1:
   ...". Nothing is allocated beyond the config itself. Size and depth of the text are bounded.
   `moe: {top_k: 2}` may also be written `moe.top_k: 2`. The file and --set take the same values:
   decimal and 0x integers, decimal floats, true and false, null where legal; no anchors, aliases or
   tags, and no other YAML 1.1 reading of a number or a boolean. */
sy_status sy_config_parse(const sy_config_section *const *sections, int32_t n_sections,
                          const char *text, size_t text_bytes, const char *file_name,
                          const char *const *overrides, int32_t n_overrides, sy_config **out);
void sy_config_destroy(sy_config **config);
/* The section's struct, filled. Requires that the name was given to sy_config_parse. Lives as long
 * as the config. */
const void *sy_config_get(const sy_config *config, const char *section);
/* The same, writable: for what is derived after parsing and no key holds. */
void *sy_config_edit(sy_config *config, const char *section);
/* Was the key given by the file or an override (not defaulted)? "moe.top_k". */
bool sy_config_was_set(const sy_config *config, const char *key);
/* Set a field after parsing, as if by --set (derived defaults: sy_config_default keeps was_set
 * false). */
sy_status sy_config_default(sy_config *config, const char *key, const char *value);
/* An error that names where the key stands: "FILE:LINE: moe.experts 8 is not divisible by
 * parallel.ep 3". Returns SY_ERR_USAGE. */
sy_status sy_config_error(const sy_config *config, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Put where the key stands in front of this thread's message, if st is SY_ERR_USAGE; returns st.
   For what a key names and something else refuses: "run.yaml:12: there is no token file 'a.idx'".
 */
sy_status sy_config_blame(const sy_config *config, const char *key, sy_status st);
/* The complete configuration as YAML that parses to the same values (floats keep 17 digits). *out
 * is freed with sy_free. */
sy_status sy_config_echo(const sy_config *config, char **out);
/* What differs, as lines "key: old -> new"; only keys for which `counts` is true (NULL: all). *out
 * "" if none; free with sy_free. */
sy_status sy_config_diff(const sy_config *old_config, const sy_config *new_config,
                         bool (*counts)(const char *key), char **out);
/* The table as text for a terminal, or as Markdown. *out is freed with sy_free. */
sy_status sy_config_help(const sy_config_section *const *sections, int32_t n_sections,
                         bool markdown, char **out);
/* Nearest of `names` by edit distance, NULL if none is near: for commands, options and keys. */
const char *sy_nearest_name(const char *name, const char *const *names, int32_t n);

#ifdef __cplusplus
}
#endif
#endif
