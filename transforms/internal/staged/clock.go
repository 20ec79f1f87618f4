package staged

import "time"

// Now is the wall clock: for how long chunks have been published, and when an event failed. No row
// depends on it but those two times of a dead letter. Tests replace it.
var Now = time.Now
