// Package models holds what every model kind shares: the dense matrix that goes in, the scores that
// come out, and the table of kinds.
//
// A model is an ordinary Go value. It knows nothing of Beam, of files or of the network: package
// bundle stores it, package registry versions it, and the transforms call its [Scorer].
//
// # Inputs
//
// A row is one event's features in the order of [Dataset.Features], as float32. NaN stands for null.
// A category is its code: the index of the value in [Feature.Categories]; a value that training did
// not see has the code len(Categories); null is NaN. What a kind needs beyond that (imputation,
// standardisation, one-hot columns) it fits in training and keeps among its own files.
//
// # Errors
//
// [ErrShape] when a matrix does not fit the model, [ErrFiles] when stored files can't be a model of
// the kind, [ErrUnknownKind] when nobody registered the kind.
//
// # Non-obvious
//
// A row's score does not depend on its place in a batch, on the batch's length, or on whether
// vectorised or plain code ran: both sum in one stated order. Bits are promised per architecture.
package models
