package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/whalepod/whalepod/master/internal/store"
)

// The file: one bucket per resource with key "namespace/name", and metaBucket. Every value is a record: CRC-32C over
// bucket, key and the rest of the record (4 bytes), the revision (8 bytes), the data. bbolt itself checks only its two
// meta pages, so without the sum a flipped bit in an object would be read as the truth.
const (
	metaBucket = "_whalepod"
	// metaFormat holds formatVersion.
	metaFormat = "format"
	// metaID holds the cluster's random id.
	metaID = "id"
	// metaRevision is the revision of the last write in the file, metaCeiling the highest that may have been handed out
	// to anybody: volatile writes are seen before they are in the file. They are equal after a clean shutdown.
	metaRevision = "revision"
	metaCeiling  = "ceiling"
	// metaCount, with the resource appended, is the number of its objects: a page that lost keys is found out.
	metaCount = "count/"

	formatVersion = 1
	recordHeader  = 12
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func recordSum(bucket, key string, rest []byte) uint32 {
	sum := crc32.Update(0, castagnoli, []byte(bucket))
	sum = crc32.Update(sum, castagnoli, []byte{0})
	sum = crc32.Update(sum, castagnoli, []byte(key))
	sum = crc32.Update(sum, castagnoli, []byte{0})
	return crc32.Update(sum, castagnoli, rest)
}

func sealRecord(bucket, key string, revision int64, data []byte) []byte {
	record := make([]byte, recordHeader+len(data))
	binary.BigEndian.PutUint64(record[4:], uint64(revision))
	copy(record[recordHeader:], data)
	binary.BigEndian.PutUint32(record, recordSum(bucket, key, record[4:]))
	return record
}

var errChecksum = errors.New("its checksum does not match")

func openRecord(bucket, key string, record []byte) (revision int64, data []byte, err error) {
	if len(record) < recordHeader {
		return 0, nil, errors.New("it is cut short")
	}
	if binary.BigEndian.Uint32(record) != recordSum(bucket, key, record[4:]) {
		return 0, nil, errChecksum
	}
	return int64(binary.BigEndian.Uint64(record[4:])), record[recordHeader:], nil
}

func encodeRecord(codec store.Codec, key store.Key, revision int64, object store.Object) ([]byte, error) {
	data, err := codec.Encode(key.Resource, object)
	if err != nil {
		return nil, &keyError{key, fmt.Errorf("cannot be encoded: %w", err)}
	}
	return sealRecord(key.Resource, diskKey(key), revision, data), nil
}

func diskKey(key store.Key) string { return key.Namespace + "/" + key.Name }

func parseDiskKey(resource, key string) (store.Key, bool) {
	namespace, name, ok := strings.Cut(key, "/")
	return store.Key{Resource: resource, Namespace: namespace, Name: name}, ok && name != ""
}

func sealNumber(key string, n int64) []byte { return sealRecord(metaBucket, key, n, nil) }
