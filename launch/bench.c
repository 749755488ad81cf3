#include "launch/bench_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CELL_BYTES = 64, MAX_COLUMNS = 16 };

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double sy__median(double *x, int32_t n)
{
    qsort(x, (size_t)n, sizeof *x, compare);
    return n % 2 == 1 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

void sy__bench_numbers(double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = (double)((uint64_t)i * 2654435761U % 1021) / 512 - 1;
    }
}

static const char *cell(const sy__column *column, const json_t *object, char *buf)
{
    const json_t *value = json_object_get(object, column->key);
    if (json_is_string(value)) {
        snprintf(buf, CELL_BYTES, "%s", json_string_value(value));
    } else if (json_is_integer(value)) {
        snprintf(buf, CELL_BYTES, "%lld", (long long)json_integer_value(value));
    } else if (json_is_real(value)) {
        snprintf(buf, CELL_BYTES, "%.*f", column->decimals, json_real_value(value));
    } else {
        snprintf(buf, CELL_BYTES, "-");
    }
    return buf;
}

static int widest(const sy__column *column, const json_t *rows)
{
    char buf[CELL_BYTES];
    size_t width = strlen(column->title), i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        size_t n = strlen(cell(column, row, buf));
        width = n > width ? n : width;
    }
    return (int)width;
}

sy_status sy__print_table(const sy__column *columns, const json_t *rows)
{
    sy_status st = SY_OK;
    char buf[CELL_BYTES];
    int width[MAX_COLUMNS], n = 0;
    size_t i;
    json_t *row;
    for (; columns[n].key != NULL; n++) {
        SY_REQUIRE(n < MAX_COLUMNS, SY_ERR_INTERNAL, "a table of more than %d columns",
                   MAX_COLUMNS);
        width[n] = widest(&columns[n], rows);
        printf("%s%*s", n > 0 ? "  " : "", n > 0 ? width[n] : -width[n], columns[n].title);
    }
    putchar('\n');
    json_array_foreach(rows, i, row)
    {
        for (int c = 0; c < n; c++) {
            printf("%s%*s", c > 0 ? "  " : "", c > 0 ? width[c] : -width[c],
                   cell(&columns[c], row, buf));
        }
        putchar('\n');
    }
cleanup:
    return st;
}

void sy__print_record(const sy__column *columns, const json_t *record)
{
    char buf[CELL_BYTES];
    for (; columns->key != NULL; columns++) {
        if (json_object_get(record, columns->key) != NULL) {
            printf("%-44s %14s\n", columns->title, cell(columns, record, buf));
        }
    }
}

sy_status sy__print_json(const json_t *object)
{
    sy_status st = SY_OK;
    SY_REQUIRE(object != NULL && json_dumpf(object, stdout, JSON_COMPACT) == 0, SY_ERR_IO,
               "the figures cannot be written as JSON");
    putchar('\n');
cleanup:
    return st;
}
