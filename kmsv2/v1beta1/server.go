package v1beta1

//lint:file-ignore SA1019 KMS v1 is deprecated; what it wrote has to be served all the same.

import (
	"context"

	kmsapi "k8s.io/kms/apis/v1beta1"

	"github.com/keyfold/keyfold/kmsv2"
)

const (
	// Domain is the associated data of what this API writes.
	Domain kmsv2.Domain = "keyfold/kms/v1"

	apiVersion  = "v1beta1"
	runtimeName = "keyfold"
)

// Register adds KMS v1 for svc to srv, which must not serve yet.
func Register(srv *kmsv2.Server, svc *kmsv2.Service) {
	kmsapi.RegisterKeyManagementServiceServer(srv.Registrar(), &server{svc: svc, version: moduleVersion()})
}

type server struct {
	svc     *kmsv2.Service
	version string
	// A method added to the API is an error at build time, not at run time.
	kmsapi.UnsafeKeyManagementServiceServer
}

var _ kmsapi.KeyManagementServiceServer = (*server)(nil)

// Version answers the API server's first call, which compares the version and logs
// the rest.
func (s *server) Version(context.Context, *kmsapi.VersionRequest) (*kmsapi.VersionResponse, error) {
	return &kmsapi.VersionResponse{Version: apiVersion, RuntimeName: runtimeName, RuntimeVersion: s.version}, nil
}

// Encrypt seals the API server's key for one object. The probe that comes every 20
// seconds, Encrypt of "ping", is an Encrypt like any other.
func (s *server) Encrypt(ctx context.Context, req *kmsapi.EncryptRequest) (*kmsapi.EncryptResponse, error) {
	env, err := s.svc.Seal(ctx, Domain, req.Plain)
	if err != nil {
		return nil, err
	}
	return &kmsapi.EncryptResponse{Cipher: env}, nil
}

// Decrypt opens what Encrypt returned.
func (s *server) Decrypt(ctx context.Context, req *kmsapi.DecryptRequest) (*kmsapi.DecryptResponse, error) {
	plain, err := s.svc.Open(ctx, Domain, req.Cipher)
	if err != nil {
		return nil, err
	}
	return &kmsapi.DecryptResponse{Plain: plain}, nil
}
