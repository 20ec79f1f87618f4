// Package aggregate has the functions that features compute over the rows of a window.
//
// Each is a function of the counted rows alone, in their order (time, then id), so that the result
// is the same to the last bit whichever way the rows came. [Funcs] lists them with what they take.
//
//	function         memory of a window  by subtraction  result
//	count            8 B a row           yes             exact
//	sum, mean        16 B a row          yes (no: float) exact sum, rounded once; floats: in order
//	var, std         the values          no              sample (n-1), two passes; null below two
//	min, max, range  the values          no              exact
//	first, last      the values          no              exact
//	time_since_last  8 B a row           yes             seconds, from the newest row before this one
//	slope            the values          no              least squares, per second; null below two times
//	ewma             the values          no              mean weighted by 2^(-age / half-life)
//	distinct         8 B a row           no              exact to 4,096 rows, then HyperLogLog, error 0.8 %
//	quantile         the values          no              exact to 4,096 rows, then DDSketch, within 1 %
//	top_k            the values          no              exact; ties: the more recent first
//	sequence         the values          no              the last k, oldest first
package aggregate
