/* The tokenizers of this folder: one file each. */
#ifndef SY_DATA_TOKENIZER_IMPL_H
#define SY_DATA_TOKENIZER_IMPL_H

#include "data/tokenizer.h"

extern const sy_tokenizer_ops sy__tokenizer_bytes, sy__tokenizer_bpe, sy__tokenizer_sentencepiece;

#endif
