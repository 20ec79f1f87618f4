package shardstate

// Machine is the contents of one shard: entities with rows, a deterministic function of what the
// machine was given. Two machines that were given the same behave the same from then on, to the bit.
//
// A machine is used by one goroutine at a time. The slices that Replay and Load get are borrowed:
// they may be overwritten after the method returned.
type Machine interface {
	// Replay applies a delta that an earlier apply (the owner's code inside [Store.Do]) returned.
	//
	// With create false the machine is a copy in the making, and holds only what Load has brought so
	// far: rows of entities that it does not hold are skipped, without an error, for the copy brings
	// them later as they are then. Of an entity of which a part was loaded, rows below the cursor
	// must be changed as the delta says; what becomes of rows from the cursor on is free, since the
	// next Load replaces them.
	Replay(delta []byte, create bool) error
	// Copy appends entities from the cursor on to dst, about budget bytes of them, in the form that
	// Load takes, and returns the extended slice and the next cursor; done if none is left.
	//
	// The zero Cursor is the beginning. A cursor survives changes of the machine, so Entity is an
	// index into an arena that is only appended to, never a position in a hash table. A call that is
	// not done must move the cursor forwards; it may exceed the budget by one row. An entity much
	// larger than the budget is copied in parts: Row is then the next row's number, counted such that
	// dropping old rows renumbers none. What belongs to no entity (a frontier, say) is copied with
	// the first part.
	Copy(dst []byte, from Cursor, budget int) (out []byte, next Cursor, done bool)
	// Load adds what one call of Copy appended. A part of an entity whose beginning is loaded
	// replaces that entity's rows from the part's first row on.
	Load(copied []byte) error
	// Size is about how many bytes Copy would make of everything live. It is asked twice a call and
	// must be cheap.
	Size() int64
	// Freeze(true) promises that no slot at or below any cursor is reused until Freeze(false), the
	// flip: whatever took a slot behind the cursor would be missing in the copy. To reuse no slot at
	// all is enough. A new machine is not frozen.
	Freeze(bool)
}

// Cursor is a position in a machine's entities: everything below it was copied. Entity is compared
// before Row; neither is negative.
type Cursor struct{ Entity, Row int64 }

// Cells are one shard's state at the runner: a Value[int64], the head, and two bags of bytes, the
// logs 0 and 1. [Store.Do] uses them inside one call of a DoFn, whose bundle commits all of it or
// nothing. Bags give their records back in the order in which they were added.
//
// A call makes one Head, at most one SetHead, which is the last of all, and one Add a log, more only
// where a record would exceed 1 MiB or a log begins.
type Cells interface {
	// Head reads the head; ok is false if it was never set.
	Head() (head int64, ok bool, err error)
	// SetHead replaces the head.
	SetHead(int64) error
	// Read gives a log's records, oldest first, and stops with the error that each returns. A record
	// is only borrowed by each.
	Read(log int, each func(record []byte) error) error
	// Add appends a record to a log. The record is the store's; the cells may hold it until SetHead
	// has returned, and must copy what they keep longer.
	Add(log int, record []byte) error
	// Clear empties a log. A log may be added to again after it was cleared in the same call.
	Clear(log int) error
}
