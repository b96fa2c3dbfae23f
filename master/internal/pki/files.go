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
	block, _ := pem.Decode(certBytes)
	if block == nil {
		return nil, nil, fmt.Errorf("%s holds no PEM block", certFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	key, err := readKey(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s is there, but its key %s is not", certFile, keyFile)
	}
	if err != nil {
		return nil, nil, err
	}
	if !samePublic(cert, key) {
		return nil, nil, fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	}
	return cert, key, nil
}

func readKey(file string) (crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block", file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a key of another kind than ECDSA", file)
	}
	return key, nil
}

func samePublic(cert *x509.Certificate, key crypto.Signer) bool {
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	return ok && pub.Equal(key.Public())
}

// writePair writes the key first: a certificate without its key is refused at the next start, a key alone is not.
func writePair(certFile, keyFile string, der []byte, key crypto.Signer) error {
	if err := writeKey(keyFile, key); err != nil {
		return err
	}
	return writeFile(certFile, certPEM(der))
}

func writeKey(path string, key crypto.Signer) error {
	k, err := keyPEM(key)
	if err != nil {
		return err
	}
	return writeFile(path, k)
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
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a new name in a directory last through a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
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
// there is still good for it. Other clusters in the file stay; a file that cannot be read is set aside. Run keeps it good
// from then on; call it before.
func (p *PKI) WriteKubeconfig(path, server string) error {
	p.kubeconfig, p.kubeconfigServer = path, server
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	c, err := p.readKubeconfig(path)
	if err != nil {
		return err
	}
	if p.kubeconfigGood(c, server) {
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
	c.Clusters["whalepod"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: p.CA()}
	c.AuthInfos[adminUser] = &clientcmdapi.AuthInfo{ClientCertificateData: certPEM(der), ClientKeyData: k}
	c.Contexts["whalepod"] = &clientcmdapi.Context{Cluster: "whalepod", AuthInfo: adminUser}
	if _, ok := c.Contexts[c.CurrentContext]; !ok {
		c.CurrentContext = "whalepod"
	}
	data, err := clientcmd.Write(*c)
	if err != nil {
		return err
	}
	return writeFile(path, data)
}

// readKubeconfig gives what is in the file, or an empty one.
func (p *PKI) readKubeconfig(path string) (*clientcmdapi.Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return clientcmdapi.NewConfig(), nil
	}
	if err != nil {
		return nil, err
	}
	c, err := clientcmd.Load(data)
	if err == nil {
		return c, nil
	}
	aside := path + ".damaged"
	p.log.Warn("the kubeconfig cannot be read; it is set aside and a new one is made", "file", path, "aside", aside, "err", err)
	return clientcmdapi.NewConfig(), os.Rename(path, aside)
}

func (p *PKI) kubeconfigGood(c *clientcmdapi.Config, server string) bool {
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
