#include "launch/choices.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "launch/choices_read.h"
#include "parallel/agree.h"

static const int64_t largest_file = INT64_C(1) << 30;

/* ---- reading ---- */

/* Rank 0: the file as text. */
static sy_status read_file(const char *path, char **out)
{
    sy_status st = SY_OK;
    struct stat info;
    FILE *f = fopen(path, "rb");
    SY_REQUIRE(f != NULL && fstat(fileno(f), &info) == 0, SY_ERR_USAGE,
               "cannot open the questions '%s'", path);
    SY_REQUIRE(S_ISREG(info.st_mode) && info.st_size <= largest_file, SY_ERR_USAGE,
               "the questions '%s' are no file of at most 1 GiB", path);
    SY_TRY(sy_alloc(info.st_size + 1, 1, (void **)out));
    SY_REQUIRE(fread(*out, 1, (size_t)info.st_size, f) == (size_t)info.st_size, SY_ERR_IO,
               "cannot read '%s'", path);
    SY_REQUIRE(memchr(*out, '\0', (size_t)info.st_size) == NULL, SY_ERR_USAGE,
               "the questions '%s' are no text: there is a NUL byte", path);
cleanup:
    if (f != NULL) {
        fclose(f);
    }
    return st;
}

/* ---- the answers ---- */

static double measure(const sy_quiz *q, const double *score, int64_t i, bool per_byte)
{
    return per_byte ? score[i] / (double)q->choice[i].bytes : score[i];
}

static double accuracy(const sy_quiz *q, const double *score, bool per_byte)
{
    int64_t n_right = 0;
    for (int64_t i = 0, best = 0; i < q->n; i++) {
        if (q->choice[i].question != q->choice[best].question ||
            measure(q, score, i, per_byte) > measure(q, score, best, per_byte)) {
            best = i;
        }
        if (i + 1 == q->n || q->choice[i + 1].question != q->choice[i].question) {
            n_right += q->choice[best].right;
        }
    }
    return (double)n_right / (double)q->n_questions;
}

static double nll_of_right(const sy_quiz *q, const double *score)
{
    double sum = 0;
    for (int64_t i = 0; i < q->n; i++) {
        sum -= q->choice[i].right ? score[i] : 0;
    }
    return sum / (double)q->n_questions;
}

sy_status sy_choices_ask(sy_engine *engine, const sy_tokenizer *tokenizer, const char *path,
                         sy_choices_result *out)
{
    sy_status st = SY_OK;
    sy_comm *host = engine->mesh->host;
    sy_quiz q = {.path = path,
                 .tokenizer = tokenizer,
                 .vocab_size = engine->settings->model->vocab_size,
                 .S = engine->spec.S};
    double *score = NULL; /* [q.n] */
    char *text = NULL;
    SY_TRY(sy_agree(host, host->rank == 0 ? read_file(path, &text) : SY_OK));
    SY_TRY(sy_host_broadcast_text(host, &text));
    SY_TRY(sy_agree(host, sy_quiz_parse(&q, text)));
    SY_TRY(sy_agree(host, sy_alloc(q.n, sizeof *score, (void **)&score)));
    SY_TRY(sy_score_sequences(engine, q.scored, q.n, score));
    *out = (sy_choices_result){q.n_questions, accuracy(&q, score, false), accuracy(&q, score, true),
                               nll_of_right(&q, score)};
cleanup:
    sy_free(&score);
    sy_quiz_free(&q);
    sy_free(&text);
    return st;
}
