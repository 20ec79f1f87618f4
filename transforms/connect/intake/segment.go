package intake

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	magic      = "MILLWAL"
	version    = 1
	headLength = 20
	// frameLength is what a record takes besides its bytes.
	frameLength = 8
	maxRecord   = 64 << 20
	ending      = ".wal"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, ending) }

// segmentFirst is the number in a segment's name.
func segmentFirst(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(filepath.Base(name), ending)
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, ok && err == nil && len(digits) == 20
}

func appendHead(dst []byte, first uint64) []byte {
	begin := len(dst)
	dst = append(append(dst, magic...), version)
	dst = binary.LittleEndian.AppendUint64(dst, first)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[begin:], castagnoli))
}

func appendFrame(dst, record []byte) []byte {
	begin := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(record)))
	sum := crc32.Update(crc32.Checksum(dst[begin:], castagnoli), castagnoli, record)
	return append(binary.LittleEndian.AppendUint32(dst, sum), record...)
}

// cutFrame cuts the first record off; ok is false if there isn't a whole one, sound or not.
func cutFrame(b []byte) (record, rest []byte, ok bool, err error) {
	if len(b) < frameLength {
		return nil, b, false, nil
	}
	n := int64(binary.LittleEndian.Uint32(b))
	if n > maxRecord {
		return nil, b, false, fmt.Errorf("a record of %d bytes", n)
	}
	if int64(len(b)) < frameLength+n {
		return nil, b, false, nil
	}
	record = b[frameLength : frameLength+n : frameLength+n]
	if crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, record) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, b, false, fmt.Errorf("a checksum is wrong")
	}
	return record, b[frameLength+n:], true, nil
}

// survey reads a segment: how many records it has, and where the last ends. If torn isn't nil, it says what
// stands behind. A head that is cut off has sound 0.
func survey(path string, first uint64) (records uint64, sound int64, torn, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, nil, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	var head [headLength]byte
	if _, err := io.ReadFull(r, head[:]); err == io.EOF || err == io.ErrUnexpectedEOF {
		return 0, 0, fmt.Errorf("its head is cut off"), nil
	} else if err != nil {
		return 0, 0, nil, err
	}
	switch {
	case string(head[:7]) == magic && head[7] != version:
		return 0, 0, nil, fmt.Errorf("%s is of version %d, known is %d: read it with the program that wrote it", path, head[7], version)
	case string(head[:]) != string(appendHead(nil, first)):
		return 0, 0, nil, fmt.Errorf("%s is no segment of a log, or its head is corrupt", path)
	}
	sound = headLength
	for buf := make([]byte, 4<<10); ; records++ {
		n, err := io.ReadFull(r, buf[:frameLength])
		if err == io.EOF {
			return records, sound, nil, nil
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return records, sound, nil, err
		}
		if n < frameLength {
			return records, sound, fmt.Errorf("a record is cut off"), nil
		}
		length := int(binary.LittleEndian.Uint32(buf))
		if length > maxRecord {
			return records, sound, fmt.Errorf("a record of %d bytes", length), nil
		}
		if frameLength+length > len(buf) {
			buf = append(buf, make([]byte, frameLength+length-len(buf))...)
		}
		if _, err := io.ReadFull(r, buf[frameLength:frameLength+length]); err == io.EOF || err == io.ErrUnexpectedEOF {
			return records, sound, fmt.Errorf("a record is cut off"), nil
		} else if err != nil {
			return records, sound, nil, err
		}
		if _, _, _, err := cutFrame(buf[:frameLength+length]); err != nil {
			return records, sound, err, nil
		}
		sound += int64(frameLength + length)
	}
}
