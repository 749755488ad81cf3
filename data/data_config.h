/* The config section `data`. */
#ifndef SY_DATA_DATA_CONFIG_H
#define SY_DATA_DATA_CONFIG_H

#include "core/config.h"
#include "data/megatron.h"
#include "data/objective.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_order { SY_ORDER_OWN, SY_ORDER_MEGATRON } sy_order;

typedef struct sy_data_config {
    char *tokenizer;
    int32_t objective;              /* sy_objective */
    int32_t sentinel_id, sentinels; /* the first, how many; -1, 0: none */
    sy_str_list mode_ids;           /* three, or none */
    bool mask_documents;
    int32_t raw_type;  /* 0: auto */
    int32_t eod;       /* -1: none */
    int32_t order;     /* sy_order */
    sy_str_list split; /* three shares, or none: sy_data_split */
    sy_map_list train; /* read entries with sy_data_train_entry */
    sy_map_list valid; /* ... and sy_data_valid_entry */
} sy_data_config;

extern const sy_config_section sy_data_section;

typedef struct sy_data_train {
    const char *path;
    double weight;      /* 1 where the entry has none */
    sy_split_part part; /* where it has none: train with data.split, else all */
} sy_data_train;

typedef struct sy_data_valid {
    const char *name, *path;
    sy_split_part part; /* where it has none: valid with data.split, else all */
    int32_t stride;     /* 0: sequences do not overlap */
} sy_data_valid;

/* How files without header or index are to be read; vocab_size is the caller's. Not collective. */
sy_token_file_spec sy_data_file_spec(const sy_data_config *config, int64_t vocab_size);
/* For training; validation is causal. Not collective. */
sy_objective_spec sy_data_objective(const sy_data_config *config, int32_t S);
/* Is that a type of ids (data.raw_type, but auto)? NULL is. SY_ERR_USAGE names the nearest. Not
   collective. */
sy_status sy_data_raw_type_check(const char *type);
/* The shares of data.split; all 0 where there are none. Not collective. */
void sy_data_split(const sy_data_config *config, double share[3]);
/* Entry i of data.train, of data.valid. Not collective. The strings belong to the config. Requires
   a config that passed the section's check, and 0 <= i < n of the list. */
sy_data_train sy_data_train_entry(const sy_data_config *config, int32_t i);
sy_data_valid sy_data_valid_entry(const sy_data_config *config, int32_t i);

#ifdef __cplusplus
}
#endif
#endif
