/* model/buckets.h - relative positions in log buckets; depends on libc alone, librouter uses it. */
#ifndef MODEL_BUCKETS_H
#define MODEL_BUCKETS_H

/* mid = buckets / 2; distance where |distance| <= mid, else sign * (ceil(ln(|d|/mid) / ln((positions-1)/mid)
 * * (mid-1)) + mid). The logarithms are float32 and are divided as written: at |d| = positions - 1 the
 * quotient is exactly 1. buckets >= 1, positions >= 1. Source: Hugging Face's make_log_bucket_position;
 * golden field relative_bucket. */
int buckets_of(int distance, int buckets, int positions);

/* Row of the relative embeddings for query minus key = distance: clamp(bucket + buckets, 0, 2 buckets - 1).
 */
int buckets_row(int distance, int buckets, int positions);

#endif
