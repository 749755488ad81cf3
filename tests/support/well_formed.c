#include "tests/support/well_formed.h"

#include <ctype.h>
#include <stdint.h>
#include <string.h>

enum { DEPTH_MAX = 64, NAME_MAX_BYTES = 32 };

static bool is_void(const char *name)
{
    return strcmp(name, "meta") == 0 || strcmp(name, "!doctype") == 0;
}

bool html_is_well_formed(const char *page)
{
    char open[DEPTH_MAX][NAME_MAX_BYTES];
    int32_t depth = 0;
    for (const char *c = page; *c != '\0'; c++) {
        if (*c == '&' && strncmp(c, "&lt;", 4) != 0 && strncmp(c, "&gt;", 4) != 0 &&
            strncmp(c, "&amp;", 5) != 0 && strncmp(c, "&quot;", 6) != 0 &&
            strncmp(c, "&#39;", 5) != 0) {
            return false;
        }
        if (*c != '<') {
            continue;
        }
        bool is_end = c[1] == '/';
        char name[NAME_MAX_BYTES] = "";
        const char *begin = c + 1 + is_end;
        size_t n = strcspn(begin, " >/\n");
        if (n == 0 || n >= sizeof name) {
            return false;
        }
        for (size_t i = 0; i < n; i++) {
            name[i] = (char)tolower((unsigned char)begin[i]);
        }
        bool is_quoted = false;
        for (c = begin + n; *c != '\0' && (*c != '>' || is_quoted); c++) {
            is_quoted = *c == '"' ? !is_quoted : is_quoted;
            if (*c == '<') {
                return false;
            }
        }
        if (*c == '\0') {
            return false;
        }
        bool is_single = is_void(name) || c[-1] == '/';
        if (is_end && (depth == 0 || strcmp(open[--depth], name) != 0)) {
            return false;
        }
        if (!is_end && !is_single) {
            if (depth == DEPTH_MAX) {
                return false;
            }
            strcpy(open[depth++], name);
        }
    }
    return depth == 0;
}
