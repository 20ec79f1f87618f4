#include "textflag.h"

// Registers of both kernels:
//   DI dst, R8 R9 R10 R11 the four rows of x, SI weights, DX biases, CX inputs left,
//   R12 bytes between rows of dst. Y0-Y7 sums, Y8 Y9 weights, Y10-Y15 products.
// Products and sums are separate instructions, since a fused one rounds once, unlike plain Go.

// func forward4x16(dst, x, w, b *float32, in, xstride, dstride int, relu bool)
TEXT ·forward4x16(SB), NOSPLIT, $0-57
	MOVQ dst+0(FP), DI
	MOVQ x+8(FP), R8
	MOVQ w+16(FP), SI
	MOVQ b+24(FP), DX
	MOVQ in+32(FP), CX
	MOVQ xstride+40(FP), AX
	MOVQ dstride+48(FP), R12
	SHLQ $2, AX
	SHLQ $2, R12
	LEAQ (R8)(AX*1), R9
	LEAQ (R9)(AX*1), R10
	LEAQ (R10)(AX*1), R11
	MOVQ CX, BX
	SHLQ $5, BX              // bytes of one tile's weights
	VMOVUPS (DX), Y0
	VMOVUPS 32(DX), Y1
	VMOVAPS Y0, Y2
	VMOVAPS Y1, Y3
	VMOVAPS Y0, Y4
	VMOVAPS Y1, Y5
	VMOVAPS Y0, Y6
	VMOVAPS Y1, Y7

loop16:
	VMOVUPS (SI), Y8
	VMOVUPS (SI)(BX*1), Y9
	VBROADCASTSS (R8), Y10
	VBROADCASTSS (R9), Y12
	VMULPS Y10, Y8, Y11
	VMULPS Y10, Y9, Y10
	VMULPS Y12, Y8, Y13
	VMULPS Y12, Y9, Y12
	VADDPS Y11, Y0, Y0
	VADDPS Y10, Y1, Y1
	VADDPS Y13, Y2, Y2
	VADDPS Y12, Y3, Y3
	VBROADCASTSS (R10), Y14
	VBROADCASTSS (R11), Y10
	VMULPS Y14, Y8, Y15
	VMULPS Y14, Y9, Y14
	VMULPS Y10, Y8, Y11
	VMULPS Y10, Y9, Y10
	VADDPS Y15, Y4, Y4
	VADDPS Y14, Y5, Y5
	VADDPS Y11, Y6, Y6
	VADDPS Y10, Y7, Y7
	ADDQ $4, R8
	ADDQ $4, R9
	ADDQ $4, R10
	ADDQ $4, R11
	ADDQ $32, SI
	DECQ CX
	JNZ  loop16

	MOVBLZX relu+56(FP), AX
	TESTL AX, AX
	JZ   store16
	VXORPS Y8, Y8, Y8
	// The second source is 0 and wins unless the sum is greater, so NaN becomes 0 as well.
	VMAXPS Y8, Y0, Y0
	VMAXPS Y8, Y1, Y1
	VMAXPS Y8, Y2, Y2
	VMAXPS Y8, Y3, Y3
	VMAXPS Y8, Y4, Y4
	VMAXPS Y8, Y5, Y5
	VMAXPS Y8, Y6, Y6
	VMAXPS Y8, Y7, Y7

store16:
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	ADDQ R12, DI
	VMOVUPS Y2, (DI)
	VMOVUPS Y3, 32(DI)
	ADDQ R12, DI
	VMOVUPS Y4, (DI)
	VMOVUPS Y5, 32(DI)
	ADDQ R12, DI
	VMOVUPS Y6, (DI)
	VMOVUPS Y7, 32(DI)
	VZEROUPPER
	RET

// func forward4x8(dst, x, w, b *float32, in, xstride, dstride int, relu bool)
TEXT ·forward4x8(SB), NOSPLIT, $0-57
	MOVQ dst+0(FP), DI
	MOVQ x+8(FP), R8
	MOVQ w+16(FP), SI
	MOVQ b+24(FP), DX
	MOVQ in+32(FP), CX
	MOVQ xstride+40(FP), AX
	MOVQ dstride+48(FP), R12
	SHLQ $2, AX
	SHLQ $2, R12
	LEAQ (R8)(AX*1), R9
	LEAQ (R9)(AX*1), R10
	LEAQ (R10)(AX*1), R11
	VMOVUPS (DX), Y0
	VMOVAPS Y0, Y2
	VMOVAPS Y0, Y4
	VMOVAPS Y0, Y6

loop8:
	VMOVUPS (SI), Y8
	VBROADCASTSS (R8), Y10
	VBROADCASTSS (R9), Y11
	VBROADCASTSS (R10), Y12
	VBROADCASTSS (R11), Y13
	VMULPS Y10, Y8, Y10
	VMULPS Y11, Y8, Y11
	VMULPS Y12, Y8, Y12
	VMULPS Y13, Y8, Y13
	VADDPS Y10, Y0, Y0
	VADDPS Y11, Y2, Y2
	VADDPS Y12, Y4, Y4
	VADDPS Y13, Y6, Y6
	ADDQ $4, R8
	ADDQ $4, R9
	ADDQ $4, R10
	ADDQ $4, R11
	ADDQ $32, SI
	DECQ CX
	JNZ  loop8

	MOVBLZX relu+56(FP), AX
	TESTL AX, AX
	JZ   store8
	VXORPS Y8, Y8, Y8
	VMAXPS Y8, Y0, Y0
	VMAXPS Y8, Y2, Y2
	VMAXPS Y8, Y4, Y4
	VMAXPS Y8, Y6, Y6

store8:
	VMOVUPS Y0, (DI)
	ADDQ R12, DI
	VMOVUPS Y2, (DI)
	ADDQ R12, DI
	VMOVUPS Y4, (DI)
	ADDQ R12, DI
	VMOVUPS Y6, (DI)
	VZEROUPPER
	RET
