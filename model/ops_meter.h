/* model/ops_meter.h - a backend that forwards to another one and notes how long each operation takes.
 *
 * FLOPs count a multiply-add as two and only what the operation needs: linear 2 N O I, linear_grad 4 N O I (2 N O I
 * without dx); attention 8 L^2 D for each sequence and head (q.k, q.kr, k.qr and p.v, each over all pairs), its
 * gradient twice that (what is computed again is not counted). Others count none. */
#ifndef MODEL_OPS_METER_H
#define MODEL_OPS_METER_H

#include "model/ops.h"

typedef enum {
    OPS_METER_EMBED,
    OPS_METER_EMBED_GRAD,
    OPS_METER_LINEAR,
    OPS_METER_LINEAR_GRAD,
    OPS_METER_LINEAR_GROUP,
    OPS_METER_LINEAR_GROUP_GRAD,
    OPS_METER_LINEAR_REAL,
    OPS_METER_LINEAR_REAL_GRAD,
    OPS_METER_NORM,
    OPS_METER_NORM_GRAD,
    OPS_METER_DROPOUT,
    OPS_METER_DROPOUT_REAL,
    OPS_METER_ATTENTION,
    OPS_METER_ATTENTION_GRAD,
    OPS_METER_GATHER,
    OPS_METER_SCATTER,
    OPS_METER_ADD,
    OPS_METER_LOSS,
    OPS_METER_SUMSQ,
    OPS_METER_ADAMW,
    OPS_METER_ADAMW_ROWS,
    OPS_METER_ZERO,
    OPS_METER_COUNT
} OpsMeterEntry;

typedef struct {
    double seconds, flops;
    uint64_t calls;
} OpsMeterSum;

typedef struct {
    Ops *inner;   /* borrowed; it must not be closed before the meter's last use */
    double asked; /* when something was last read from the backend: a device's work had all been asked for */
    bool waits;   /* for each operation: on a device, seconds are otherwise those of asking for it */
    OpsMeterSum sum[OPS_METER_COUNT];
} OpsMeter;

/* Makes *out an Ops that forwards to inner and adds up in *meter. Closing it does not close inner. */
void ops_meter_fill(Ops *out, OpsMeter *meter, Ops *inner);
void ops_meter_reset(OpsMeter *meter);
const char *ops_meter_name(OpsMeterEntry entry); /* "linear_grad" */

double ops_meter_attention_flops(const Attention *shape); /* of one forward call */

#endif
