// Package e2e tests whole graphs from the outside, as users see them: through the exported packages
// and through the commands, on every runner that needs no server.
package e2e
