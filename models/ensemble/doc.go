// Package ensemble combines trained models over the same inputs into one. The kind is "ensemble";
// it is assembled, not trained: [Blend] averages the members' scores, [BlendLogOdds] their log odds,
// and [Stack] fits a logistic regression on their log odds to rows that no member was trained on.
//
// All three take members whose only score is a probability. Averaging scores suits members that are
// calibrated alike; stacking also corrects members that are too bold or too timid.
//
// The files of member i, called name, lie in folder members/<i>-<name>, beside ensemble.json, which
// tells their kinds. The packages of those kinds must be linked to load it.
//
// # Errors
//
// Assembling returns models.ErrShape for members whose inputs differ and a plain error for names and
// weights that do not serve. Load returns models.ErrFiles or models.ErrUnknownKind.
//
// # Non-obvious
//
// Log odds are taken of scores kept 1e-6 off 0 and 1, so that a forest's certainty counts for much
// but not for everything.
//
// A stack's ridge draws its weights to the even average, so its log loss on the rows it was fitted
// to is never above that of BlendLogOdds with even weights.
package ensemble
