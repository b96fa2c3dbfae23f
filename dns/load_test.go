package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// What BenchmarkOneCore measures with.
const (
	// serveVariable makes the test's program a DNS server at that address.
	serveVariable = "WP_DNS_SERVE"
	loadServices  = 5000
	loadSockets   = 4
	// loadWindow is how many questions are out at the same time, on all sockets, to keep a server busy: what a socket's buffer of
	// the usual size has room for.
	loadWindow = 256
	// loadRate is the number of questions a second at which the time of an answer is measured: what a busy node may have.
	loadRate = 20_000
	loadTime = 4 * time.Second
	// loadPatience is after how long what is out counts as lost. A shorter one would bury a slow server.
	loadPatience = time.Second
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(serveVariable); addr != "" {
		if err := serveAlone(addr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveAlone is a server with many Services, until it is interrupted.
func serveAlone(addr string) error {
	pc, err := net.ListenPacket("udp4", addr)
	if err != nil {
		return err
	}
	s, err := New(Config{Zone: manyServices(loadServices), PacketConns: []net.PacketConn{pc}})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return s.Run(ctx)
}

// pinned puts this process, the clients', on the last processor and names the first, for the server.
func pinned(b *testing.B) (core int) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		b.Fatal(err)
	}
	var cores []int
	for i := range 1024 {
		if all.IsSet(i) {
			cores = append(cores, i)
		}
	}
	var last unix.CPUSet
	last.Set(cores[len(cores)-1])
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		b.Fatal(err)
	}
	set := func(to *unix.CPUSet) {
		for _, t := range tasks { // later threads have what the one has that makes them
			id, _ := strconv.Atoi(t.Name())
			if err := unix.SchedSetaffinity(id, to); err != nil && !errors.Is(err, unix.ESRCH) {
				b.Fatal(err)
			}
		}
	}
	set(&last)
	b.Cleanup(func() { set(&all) })
	return cores[0]
}

func freeAddress(b *testing.B) string {
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.LocalAddr().String()
}

// startOn starts a program that has one core.
func startOn(b *testing.B, core int, env []string, program string, args ...string) *exec.Cmd {
	cmd := exec.Command("taskset", append([]string{"-c", strconv.Itoa(core), program}, args...)...)
	cmd.Env = append(append(os.Environ(), "GOMAXPROCS=1"), env...)
	log := filepath.Join(b.TempDir(), "log")
	f, err := os.Create(log)
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		_ = f.Close()
		if text, _ := os.ReadFile(log); b.Failed() {
			b.Logf("%s: %s", program, text)
		}
	})
	return cmd
}

// measure a server when it knows all Services: what it answers at most, and how long a client waits when it is not busy.
func measure(b *testing.B, server *exec.Cmd, addr string) {
	b.StopTimer()
	l := newLoad(b, addr)
	defer l.close()
	l.await(fmt.Sprintf("svc-%d.default.svc.cluster.local.", loadServices-1))
	l.saturate(loadTime / 4) // to warm up
	before := processorTime(b, server.Process.Pid)
	b.StartTimer()
	n := l.saturate(loadTime)
	b.StopTimer()
	used := processorTime(b, server.Process.Pid) - before
	b.ReportMetric(float64(n)/loadTime.Seconds(), "queries/s")
	b.ReportMetric(float64(n)/used.Seconds(), "queries/core-s")
	took := l.pace(loadTime)
	slices.Sort(took)
	b.ReportMetric(100*max(0, 1-float64(len(took))/loadTime.Seconds()/loadRate), "lost-%")
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
	b.ReportMetric(residentMB(b, server.Process.Pid), "MB")
}

// load asks one server.
type load struct {
	b     *testing.B
	conns []*net.UDPConn
	wires [][]byte
}

func newLoad(b *testing.B, addr string) *load {
	l := &load{b: b}
	for i := range loadServices {
		wire, err := query(fmt.Sprintf("svc-%d.default.svc.cluster.local.", i), dns.TypeA).Pack()
		if err != nil {
			b.Fatal(err)
		}
		l.wires = append(l.wires, wire)
	}
	to, err := net.ResolveUDPAddr("udp4", addr)
	if err != nil {
		b.Fatal(err)
	}
	for range loadSockets {
		c, err := net.DialUDP("udp4", nil, to)
		if err != nil {
			b.Fatal(err)
		}
		l.conns = append(l.conns, c)
	}
	return l
}

func (l *load) close() {
	for _, c := range l.conns {
		_ = c.Close()
	}
}

// await until the server knows a name.
func (l *load) await(name string) {
	c := dns.Client{Timeout: 200 * time.Millisecond}
	for began := time.Now(); time.Since(began) < time.Minute; {
		r, _, err := c.ExchangeContext(l.b.Context(), query(name, dns.TypeA), l.conns[0].RemoteAddr().String())
		if err == nil && len(r.Answer) == 1 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.b.Fatalf("%s is not known after a minute", name)
}

// good tells whether an answer has what was asked for.
func good(msg []byte) bool {
	return len(msg) > headerLen && msg[3]&0xf == dns.RcodeSuccess && binary.BigEndian.Uint16(msg[6:]) == 1
}

// saturate keeps as many questions out as the window has, and counts the answers.
func (l *load) saturate(d time.Duration) int64 {
	var all sync.WaitGroup
	var answered, bad atomic.Int64
	until := time.Now().Add(d)
	for i, c := range l.conns {
		all.Go(func() {
			pc := ipv4.NewPacketConn(c)
			const window = loadWindow / loadSockets
			in, out := make([]ipv4.Message, window), make([]ipv4.Message, window)
			for j := range in {
				in[j].Buffers, out[j].Buffers = [][]byte{make([]byte, 1500)}, make([][]byte, 1)
			}
			free, next := window, i*loadServices/loadSockets
			for time.Now().Before(until) {
				for j := range free {
					out[j].Buffers[0] = l.wires[next%len(l.wires)]
					next++
				}
				for sent := 0; sent < free; {
					n, err := pc.WriteBatch(out[sent:free], 0)
					if err != nil {
						l.b.Error(err)
						return
					}
					sent += n
				}
				_ = c.SetReadDeadline(time.Now().Add(loadPatience))
				n, err := pc.ReadBatch(in, 0)
				if err != nil {
					free = window // lost
					continue
				}
				for _, m := range in[:n] {
					if !good(m.Buffers[0][:m.N]) {
						bad.Add(1)
					}
				}
				answered.Add(int64(n))
				free = n
			}
			_ = c.SetReadDeadline(time.Now().Add(loadPatience / 4))
			for { // what is still on its way
				if _, err := pc.ReadBatch(in, 0); err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	if bad.Load() > 0 {
		l.b.Errorf("%d answers of %d are not what they should be", bad.Load(), answered.Load())
	}
	return answered.Load()
}

// pace asks at a fixed rate, and returns how long each answer took.
func (l *load) pace(d time.Duration) (took []time.Duration) {
	var mu sync.Mutex
	var all sync.WaitGroup
	began := time.Now()
	for i, c := range l.conns {
		sent := make([]atomic.Int64, 1<<16) // when the question of that ID was sent
		all.Go(func() {
			buf := make([]byte, 1500)
			own := make([]time.Duration, 0, int(d.Seconds()*loadRate/loadSockets))
			_ = c.SetReadDeadline(began.Add(d + time.Second))
			for {
				n, err := c.Read(buf)
				if err != nil {
					break
				}
				if good(buf[:n]) {
					own = append(own, time.Since(began)-time.Duration(sent[binary.BigEndian.Uint16(buf)].Load()))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
		})
		all.Go(func() {
			msg := make([]byte, 0, 512)
			for n := 0; time.Since(began) < d; n++ {
				due := began.Add(time.Duration(n*loadSockets+i) * time.Second / loadRate)
				time.Sleep(time.Until(due))
				msg = append(msg[:0], l.wires[(n*loadSockets+i)%len(l.wires)]...)
				binary.BigEndian.PutUint16(msg, uint16(n))
				sent[uint16(n)].Store(int64(time.Since(began)))
				if _, err := c.Write(msg); err != nil {
					l.b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if len(took) == 0 {
		l.b.Fatalf("no answer in %s, at %d questions a second", d, loadRate)
	}
	return took
}

// processorTime that a process has used.
func processorTime(b *testing.B, pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	const ticks = 100 // a second, on all Linux machines
	return time.Duration(user+system) * time.Second / ticks
}

func residentMB(b *testing.B, pid int) float64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	data, _ := io.ReadAll(f)
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		b.Fatal(err)
	}
	return float64(kb) / 1000
}
