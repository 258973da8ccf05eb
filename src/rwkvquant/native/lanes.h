// The types and functions that the products are written with. Each body has its own version of them: AVX-512 (lanes_avx512.h), AVX2
// (lanes_avx2.h, lanes_avxvnni.h), NEON (lanes_neon.h, lanes_i8mm.h) and plain C++ (lanes_plain.h). CMakeLists.txt says which body has which.
//
//     Ints     16 x int32, one for each row   Floats   16 x float32, one for each row
//     Bytes    64 x uint8, one step of a tile: byte 4r + c is row r and column c of 4; 16 bytes are 4 rows, one lane of a shuffle
//
//     splat(v)  add(a, b)  multiply(a, b)  to_floats(ints)      as their names say; every operation rounds by itself (-ffp-contract=off),
//                                                               so all versions give the same bits
//     shift<k>(bytes)                 k > 0 to the left, k < 0 to the right; bits of neighbouring bytes may come in, so mask the result
//     mask(bytes, m)                  bytes & m
//     select(m, a, b)                 (a & m) | (b & ~m)
//     index_of(code, m, offset)       (code & m) | offset
//     lookup(tables, index)           tables[index % 16] in each 16 bytes; bit 7 of an index must be 0
//     four_from(x)                    four activations, for all rows
//     dot<bits>(sum, bytes, four)     sum[r] + sum over c of byte[4r + c] * four[c]; bytes below 2^bits. Nothing saturates. `four` may
//                                     also be the address of four activations
//     multiply_zeros(zeros, factor)   zeros of at most 8 bits times a factor of at most 16, sign included, exactly
//     zeros_of<bits>(packed)          the zeros of 16 rows and one group, from 2 * bits bytes (tiles.h)
//     column<c>(bytes)                byte 4r + c of each row r
//     NibbleSums<bits>                sums over a tile of codes that are two in a byte
//
// For matrices stored by columns (product_columnwise.cpp), where four lines of bytes are four columns of up to 64 rows:
//
//     bytes_from(from, count)         `count` bytes, a multiple of 16 up to 64, and zeros after them
//     interleave<k>(a, b, c, d)       of each 16 bytes, bytes 4k .. 4k + 3 of all four: byte 16P + 4m + c is byte 16P + 4k + m of line c
//     signed_dot(sum, four, bytes)    sum[r] + sum over c of four[c] * (byte[4r + c] - kEntryOffset); four of 0..255, entries of -64..64
//     keep_nonzero(...)               appends the numbers that are not zero, and their columns, to two lists
#pragma once

#include RWKVQUANT_LANES
