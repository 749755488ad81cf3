/* Between the files of the config engine: YAML text -> tree (config_yaml.c), tree <-> field
   (config_value.c, config_write.c), tables and their keys (config.c), text for people
   (config_text.c). */
#ifndef SY_CORE_CONFIG_IMPL_H
#define SY_CORE_CONFIG_IMPL_H

#include "core/config.h"

enum { SY__NAME_BYTES = 128 }; /* of a full key: "moe.sinkhorn.iterations" */

/* What is being read: a file (messages get a line), one --set, a default. */
typedef struct sy__source {
    const char *name; /* "tiny.yaml", "--set moe.top_k=2", "default of moe.top_k" */
    bool has_lines;
} sy__source;

/* Record "tiny.yaml:7: message" as SY_ERR_USAGE. line 0: not known. */
sy_status sy__refuse(const sy__source *source, int32_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* " (did you mean 'moe.top_k'?)", or "" where nothing is near (NULL). Returns buf. */
const char *sy__hint_format(const char *near_name, char *buf, size_t buf_bytes);

typedef enum sy__node_kind { SY__SCALAR, SY__LIST, SY__MAP } sy__node_kind;

typedef struct sy__node {
    sy__node_kind kind;
    bool plain; /* a scalar without quotes */
    int32_t line;
    char *key;  /* child of a map */
    char *text; /* scalar */
    int32_t n_children;
    struct sy__node *first_child, *next;
} sy__node;

/* One YAML document as a tree. No document at all: *out NULL. Free with sy__node_destroy. */
sy_status sy__yaml_read(const sy__source *source, const char *text, size_t text_bytes,
                        sy__node **out);
void sy__node_destroy(sy__node **node);
/* Plain, and nothing or null. */
bool sy__node_is_empty(const sy__node *node);
bool sy__node_is_null(const sy__node *node);

/* Read a node into the field of a key (its old value is freed); untouched where refused. */
sy_status sy__value_parse(const sy__source *source, const char *full_name, const sy_config_key *key,
                          const sy__node *node, void *field);
void sy__value_free(const sy_config_key *key, void *field);

/* A growing string. */
typedef struct sy__text {
    char *data; /* NULL while empty; always terminated */
    int64_t n, n_max;
} sy__text;
sy_status sy__text_add(sy__text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The value of a field as it would stand in YAML. */
sy_status sy__value_write(sy__text *text, const sy_config_key *key, const void *field);
/* "1..64", ">= 1", or "" for no range. */
void sy__range_format(const sy_config_key *key, char *buf, size_t buf_bytes);

typedef enum sy__origin { SY__DEFAULT, SY__FILE, SY__SET } sy__origin;

/* One key of one section, with where its value came from. */
typedef struct sy__entry {
    const sy_config_key *key;
    int32_t section;
    char name[SY__NAME_BYTES]; /* full */
    sy__origin origin;
    int32_t line;   /* in the file */
    char *set_name; /* "--set moe.top_k=2" */
} sy__entry;

struct sy_config {
    char *file_name;
    int32_t n_sections, n_entries;
    const sy_config_section **sections;
    void **data; /* [n_sections] the sections' structs */
    sy__entry *entries;
};

const sy__entry *sy__config_find(const sy_config *config, const char *full_name);
void *sy__config_field(const sy_config *config, const sy__entry *entry);

#endif
