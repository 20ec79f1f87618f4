// Package expr compiles expressions over the fields of an event to functions over columns.
//
// Expressions are written in CEL (the Common Expression Language), with the fields of an
// [event.Schema] as variables:
//
//	TX_AMOUNT / customer_tx_mean_30d
//	TX_DATETIME.getDayOfWeek() in [0, 6]
//	coalesce(log1p(TX_AMOUNT), 0) > 3 && CUSTOMER_ID != 17
//
// # Types
//
//   - Every number is a double: int, decimal and float fields, integer literals, and what size, int,
//     getHours and their like return. So TX_AMOUNT / 2 and getHours() <= 6 mean what they look like,
//     and 7 / 2 is 3.5.
//   - bool, string and category fields are CEL's bool and string; a timestamp is a CEL timestamp,
//     whose getters count in UTC unless given a zone, and getDayOfWeek() from Sunday = 0.
//   - Ids have a type of their own, of which only ==, != and in are defined: against ids, and against
//     literals, where 12 and "12" are the same id.
//   - A list field is a list of the above.
//
// Beside the standard functions there are abs, min and max (two arguments or more), log, log1p, exp,
// sqrt, pow, floor, ceil, a % b (the remainder has the sign of a), isNull(x), and coalesce(a, b, ...),
// which is its first argument that isn't null.
//
// # Nulls
//
// Null in gives null out. Exceptions are isNull, coalesce, and what can be decided without the null:
// false && null is false, true || null is true, and a conditional looks at the branch it takes only.
// A number that is NaN or infinite is null at once, so coalesce(a / b, 0) is 0 where b is 0.
// Whatever else fails for a row (a text that isn't a number, an index behind a list's end) is
// null there.
//
// # Errors
//
// [Compile] reports every fault it finds, with columns counted from 1, as [ErrExpression].
// [Program.Eval] fails only for a batch of other columns: data never makes it fail.
//
// # Cost
//
// Size and nesting of an expression are bounded, and so is what it may cost: Compile refuses one
// whose estimate for strings of 4096 bytes and lists of 1024 elements is above 10^7 of CEL's units,
// and macros over lists stop, with null, at that many a row.
//
// # Non-obvious
//
// The parsed tree is rewritten before it is checked: numbers become doubles, + - * / are wrapped in
// a function that turns what isn't finite into null, and literals beside ids become ids. The common
// forms (arithmetic, comparisons, logic, conditionals, in over literals, timestamp getters and the
// functions above) then run as loops over 1024 rows at a time; any other expression is evaluated row
// by row in cel-go, some hundred times slower. A test holds the two equal.
//
// In cel-go a null is an error value: errors pass through functions and are absorbed by && and ||
// just as nulls have to be, which CEL's own null does not.
package expr
