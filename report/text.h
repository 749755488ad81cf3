/* A text that grows: what the HTML page, the SVG figures and the JSON lines are written into.
   A failure (memory) sticks in `st`, so that a long run of appends is checked once at its end. */
#ifndef SY_REPORT_TEXT_H
#define SY_REPORT_TEXT_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_text {
    char *data; /* always terminated once something was appended; NULL before */
    int64_t n, n_max;
    sy_status st;
} sy_text; /* start from {0} */

/* Append n bytes as they are.
   Not collective. After a failure this and every other append does nothing. */
void sy_text_append(sy_text *text, const char *bytes, int64_t n);

/* Append a terminated string as it is.
   Not collective. */
void sy_text_puts(sy_text *text, const char *string);

/* Append formatted text.
   Not collective. Whatever comes from outside goes through sy_text_html or sy_text_json instead. */
void sy_text_printf(sy_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Append text for HTML or SVG, as content or inside a quoted attribute.
   Not collective. Escapes < > & " '; drops control characters; bytes that are no UTF-8 become
   U+FFFD. */
void sy_text_html(sy_text *text, const char *string);

/* Append a JSON string with its quotes.
   Not collective. Bytes that are no UTF-8 become U+FFFD. */
void sy_text_json(sy_text *text, const char *string);

/* Append a JSON number: the shortest digits that read back as the same double; NaN and infinities
   become null. Not collective. A whole number keeps a ".0", so that it stays a real for every
   reader. */
void sy_text_json_f64(sy_text *text, double value);

/* Forget the contents and the failure, keep the memory.
   Not collective. */
void sy_text_clear(sy_text *text);

/* Free the memory; the text is {0} again.
   Not collective. */
void sy_text_free(sy_text *text);

#ifdef __cplusplus
}
#endif
#endif
