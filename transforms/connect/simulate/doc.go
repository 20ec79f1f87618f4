// Package simulate makes events up: the card transactions of the Fraud Detection Handbook
// (Le Borgne, Siblini, Lebichot, Bontempi: Reproducible Machine Learning for Credit Card Fraud
// Detection, 2022), to any size. With the default parameters it gives the book's published table of
// 1,754,155 transactions.
//
// [Fraud] calls back row by row, [Batches] gives event batches of [Schema]. A source names it as
// simulate://fraud ([ParseURL]).
//
// # Order and time
//
// Rows come by time, then customer, then the order in which that customer made them, and are numbered
// so. The published table has the same rows, but where several fall into one second, it has them in
// the order of an unstable sort: 6.8 % of its TRANSACTION_IDs differ.
//
// The label of a row is known when it comes, which in real life it isn't: a pipeline has to delay it.
//
// # Memory
//
// Every customer has two generators of 2.5 KB and a list of terminals of 4 bytes each (75 at the
// default density), and 14 days of rows are held back, since the third kind of fraud picks among that
// many: about 45 MB by default.
//
// # Errors
//
// [ErrParams] for parameters that can't be used; otherwise only what the callback returned.
//
// # Non-obvious
//
// The rules were written down from the book and implemented anew; the generators are those of NumPy
// and of Python (package mt), both seeded with the customer's number. A seed other than 0 is hashed
// to an offset of all seeds: added as it is, it would make customer c of seed 1 a copy of customer
// c+1 of seed 0.
package simulate
