package kmsv2_test

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	kmsapi "k8s.io/kms/apis/v2"
	"k8s.io/kms/pkg/service"
	"k8s.io/kms/pkg/util"

	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
)

// BenchmarkSocket measures a request as an API server makes it, over a unix socket.
// "echo" is the floor: the same server, with a service that only returns answers of
// the same size. What lies between the two is all that Keyfold adds.
func BenchmarkSocket(b *testing.B) {
	ours, echo, calls := benchSocket(b)
	for _, call := range calls {
		for _, side := range []struct {
			name   string
			client kmsapi.KeyManagementServiceClient
		}{{"keyfold", ours}, {"echo", echo}} {
			b.Run(call.name+"/"+side.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					call.do(b, side.client)
				}
			})
			b.Run(call.name+"-parallel/"+side.name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(16)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						call.do(b, side.client)
					}
				})
			})
		}
	}
}

// BenchmarkSocketRatio makes the two kinds of request of BenchmarkSocket in turn and
// compares their medians, so that whatever else the machine does meets both alike.
func BenchmarkSocketRatio(b *testing.B) {
	ours, echo, calls := benchSocket(b)
	for _, call := range calls {
		b.Run(call.name, func(b *testing.B) {
			var took [2][]time.Duration
			for b.Loop() {
				for i, client := range []kmsapi.KeyManagementServiceClient{ours, echo} {
					start := time.Now()
					call.do(b, client)
					took[i] = append(took[i], time.Since(start))
				}
			}
			var median [2]float64
			for i := range took {
				slices.Sort(took[i])
				median[i] = float64(took[i][len(took[i])/2])
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median[0], "keyfold-ns")
			b.ReportMetric(median[1], "echo-ns")
			b.ReportMetric(median[0]/median[1], "ratio")
		})
	}
}

type benchCall struct {
	name string
	do   func(*testing.B, kmsapi.KeyManagementServiceClient)
}

// benchSocket starts both servers.
func benchSocket(b *testing.B) (ours, echo kmsapi.KeyManagementServiceClient, calls []benchCall) {
	b.Helper()
	const seed = "the 32-byte seed of an apiserver"
	const uid = "f4a2a5a8-93a1-4a80-9f8f-6a0c9b8e4d11"
	p := benchPlugin(b)
	encrypted := p.encrypt(seed)
	ours = benchClient(b, p)
	echo = benchClient(b, fixedService{
		encrypt: func(context.Context, []byte) (*service.EncryptResponse, error) {
			return &service.EncryptResponse{
				Ciphertext: encrypted.Ciphertext, KeyID: encrypted.KeyID, Annotations: encrypted.Annotations,
			}, nil
		},
		decrypt: func(context.Context, *service.DecryptRequest) ([]byte, error) { return []byte(seed), nil },
	})
	encrypt := func(b *testing.B, client kmsapi.KeyManagementServiceClient) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if _, err := client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: []byte(seed), Uid: uid}); err != nil {
			b.Error(err)
		}
	}
	decrypt := func(b *testing.B, client kmsapi.KeyManagementServiceClient) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		r := &kmsapi.DecryptRequest{Ciphertext: encrypted.Ciphertext, KeyId: encrypted.KeyID, Annotations: encrypted.Annotations, Uid: uid}
		if _, err := client.Decrypt(ctx, r); err != nil {
			b.Error(err)
		}
	}
	return ours, echo, []benchCall{{"encrypt", encrypt}, {"decrypt", decrypt}}
}

// BenchmarkService is the same without the socket.
func BenchmarkService(b *testing.B) {
	p := benchPlugin(b)
	plaintext := []byte("the 32-byte seed of an apiserver")
	encrypted := request(p.encrypt(string(plaintext)))
	ctx := context.Background()
	b.Run("encrypt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Encrypt(ctx, "uid", plaintext); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decrypt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Decrypt(ctx, "uid", encrypted); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("status", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Status(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// benchPlugin has an RSA key, as Key Vault does, and logs nothing.
func benchPlugin(b *testing.B) *plugin {
	b.Helper()
	v := newVault(b)
	version, err := v.hsm.CreateKey(context.Background(), "kek", hsmsim.RSA2048)
	must(b, err)
	p := start(b, setup{ring: v.current(hsmsim.Ref{Name: "kek", Version: version.Version}), quiet: true})
	p.status()
	return p
}

// benchClient is connected as k8s.io/apiserver connects to a plugin.
func benchClient(b *testing.B, svc service.Service) kmsapi.KeyManagementServiceClient {
	b.Helper()
	endpoint := "unix://" + filepath.Join(socketFolder(b), "s")
	serve(b, endpoint, kmsv2.ListenOptions{}, svc)
	addr, err := util.ParseEndpoint(endpoint)
	must(b, err)
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			return net.DialUnix("unix", nil, &net.UnixAddr{Name: addr})
		}))
	must(b, err)
	b.Cleanup(func() { conn.Close() })
	return kmsapi.NewKeyManagementServiceClient(conn)
}
