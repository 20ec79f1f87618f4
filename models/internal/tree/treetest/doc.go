// Package treetest holds what the tests of the tree kinds share.
package treetest
