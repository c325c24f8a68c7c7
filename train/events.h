/* train/events.h - scalars for TensorBoard.
 *
 * A file "events.out.tfevents.SECONDS.router" is a sequence of records: u64 length, u32 masked CRC-32C of
 * those 8 bytes, the data, u32 masked CRC-32C of the data; little-endian; masked(c) = rotate_right(c, 15) +
 * 0xa282ead8. The data is a protobuf Event: 1 wall_time double, 2 step int64, 3 file_version string (first
 * record: "brain.Event:2"), 5 summary { 1 value { 1 tag string, 2 simple_value float } }. */
#ifndef TRAIN_EVENTS_H
#define TRAIN_EVENTS_H

#include <stdint.h>
#include <stdio.h>

#include "core/err.h"

typedef struct {
    FILE *file; /* NULL: closed */
} Events;

/* A new file in `dir`, or more records in one of the same second. */
ErrCode events_open(Events *e, const char *dir, Err *err) ERR_CHECKED;

/* Appends one scalar; a tag of at most 100 bytes. Failures to write are ignored: the run matters more. */
void events_add(Events *e, int64_t step, const char *tag, double value);
void events_flush(Events *e);
void events_close(Events *e);

#endif
