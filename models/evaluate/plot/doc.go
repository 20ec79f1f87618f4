// Package plot draws what package evaluate measures as SVG: ROC and precision-recall curves,
// reliability diagrams and score histograms.
//
// A plot is a complete <svg> element without an XML prologue, so a report can inline it; it scales
// to the width of its container, embeds no fonts and refers to nothing outside itself. The same
// input gives the same bytes.
//
// # Errors
//
// A series on which the curve is not defined (no rows, one class only, NaN scores) is an error that
// names it.
//
// # Non-obvious
//
// Precision-recall is drawn in steps, not slanted, so that the area under the line is the average
// precision in the legend. Points closer than a fifth of a percent of the axis are left out: a
// curve over 58,000 rows takes about 20 kB.
package plot
