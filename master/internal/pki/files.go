package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func readPair(certFile, keyFile string) (*x509.Certificate, crypto.Signer, error) {
	certBytes, err := os.ReadFile(certFile)
	if err != nil {
		return nil, nil, err
	}
	keyBytes, err := os.ReadFile(keyFile)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("%s is there, but its key %s is not", certFile, keyFile)
		}
		return nil, nil, err
	}
	block, _ := pem.Decode(certBytes)
	if block == nil {
		return nil, nil, fmt.Errorf("%s holds no PEM block", certFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	block, _ = pem.Decode(keyBytes)
	if block == nil {
		return nil, nil, fmt.Errorf("%s holds no PEM block", keyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok || !samePublic(cert, key) {
		return nil, nil, fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	}
	return cert, key, nil
}

func samePublic(cert *x509.Certificate, key crypto.Signer) bool {
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	return ok && pub.Equal(key.Public())
}

// writePair writes the key first: a certificate without its key is refused at the next start, a key alone is not.
func writePair(certFile, keyFile string, der []byte, key crypto.Signer) error {
	k, err := keyPEM(key)
	if err != nil {
		return err
	}
	if err := writeFile(keyFile, k); err != nil {
		return err
	}
	return writeFile(certFile, certPEM(der))
}

// writeFile replaces a file at once and durably, with mode 0600.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// secretFile reads a key kept in hexadecimal, or makes a random one.
func secretFile(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, keyBytes)
		if _, err := rand.Read(key); err != nil {
			return nil, err
		}
		return key, writeFile(path, []byte(hex.EncodeToString(key)+"\n"))
	}
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != keyBytes {
		return nil, fmt.Errorf("%s is damaged: it must hold %d bytes in hexadecimal; restore it from a backup", path, keyBytes)
	}
	return key, nil
}

func addSANs(tmpl *x509.Certificate, sans []string) {
	for _, san := range sans {
		if ip := net.ParseIP(san); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, san)
		}
	}
}

// WriteKubeconfig writes the admin's kubeconfig for the API at server (https://host:port), mode 0600, unless the one that is
// there is still good for it.
func (p *PKI) WriteKubeconfig(path, server string) error {
	if p.kubeconfigGood(path, server) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := sign(clientTemplate(adminUser, GroupMasters), p.caCert, key.Public(), p.caKey, certLife)
	if err != nil {
		return err
	}
	k, err := keyPEM(key)
	if err != nil {
		return err
	}
	c := clientcmdapi.NewConfig()
	c.Clusters["whalepod"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: p.CA()}
	c.AuthInfos[adminUser] = &clientcmdapi.AuthInfo{ClientCertificateData: certPEM(der), ClientKeyData: k}
	c.Contexts["whalepod"] = &clientcmdapi.Context{Cluster: "whalepod", AuthInfo: adminUser}
	c.CurrentContext = "whalepod"
	data, err := clientcmd.Write(*c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return writeFile(path, data)
}

func (p *PKI) kubeconfigGood(path, server string) bool {
	c, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return false
	}
	cluster, auth := c.Clusters["whalepod"], c.AuthInfos[adminUser]
	if cluster == nil || auth == nil || cluster.Server != server {
		return false
	}
	block, _ := pem.Decode(auth.ClientCertificateData)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	return err == nil && cert.CheckSignatureFrom(p.caCert) == nil && !dueForRenewal(cert, time.Now())
}
