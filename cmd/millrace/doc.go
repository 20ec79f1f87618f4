// Command millrace scores events, computes their features and retrains the models, as a use-case file
// says. The imports link the connectors and the model kinds; a binary of your own links its choice,
// and its own kinds, in the same three lines.
package main
