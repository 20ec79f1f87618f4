// Package forest trains and scores random forests for a binary label. The kind is "forest".
//
// Every tree sees a bootstrap sample of the rows, and every node looks at its own random choice of
// features (Breiman, 2001), by default the square root of their number, for the split that lowers
// the Gini impurity most. The score is the mean over the trees of the share of positives in the
// leaf that the row falls into. Values are binned first, up to 256 bins a feature, which costs
// little accuracy and saves the sorting in each node.
//
// Frauds and other rare positives can be lifted in two ways: class_weight weighs each of them, and
// positive_share draws fewer negatives for each tree, so that positives make up that share (a
// balanced forest, Chen, Liaw and Breiman, 2004). Both raise scores above probabilities.
//
// A null (NaN) follows the split's default direction: the one with the lower impurity in training,
// or the heavier side where the node saw no null. A category takes part as its code.
//
// # Errors
//
// Train returns models.ErrShape for data that does not fit together, and a plain error for labels
// other than 0 and 1. Load returns models.ErrFiles.
//
// # Non-obvious
//
// Each tree draws from a random stream of its own, so the forest does not depend on how many
// workers grow it. Features that are constant in a node do not count towards its choice, as in
// scikit-learn: with many of them a node would otherwise often find nothing to split on.
package forest
