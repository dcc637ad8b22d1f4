{{- /* At most 35 characters, so that StatefulSets of logs have names of at most 52, which Kubernetes requires. */ -}}
{{- define "mayfly.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride | trunc 35 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}{{ .Release.Name | trunc 35 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 35 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- /* The labels by which Services and controllers find Pods. Argument: root, component. */ -}}
{{- define "mayfly.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .log }}
mayfly-ca.dev/log: {{ .name | quote }}
{{- end }}
{{- end -}}

{{- /* The metadata of an object. Argument: root, component, suffix of the name, log, labels, annotations. */ -}}
{{- define "mayfly.metadata" -}}
name: {{ include "mayfly.fullname" .root }}{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "mayfly.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
  {{- with merge (dict) (default dict .labels) .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Whole seconds of a duration such as 1m30s, rounded up. */ -}}
{{- define "mayfly.seconds" -}}
{{- $total := 0.0 -}}
{{- if ne (regexReplaceAll "[0-9]+([.][0-9]+)?(ms|h|m|s)|^0$" . "") "" -}}
{{- fail (printf "found the duration %q, expected a number with a unit, such as 10s" .) -}}
{{- end -}}
{{- range regexFindAll "[0-9]+([.][0-9]+)?(ms|h|m|s)" . -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $total = addf $total (mulf (float64 (trimSuffix $unit .)) (get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0) $unit)) -}}
{{- end -}}
{{- ceil $total | int -}}
{{- end -}}

{{- define "mayfly.terminationGracePeriod" -}}
{{- $shutdown := default dict .Values.config.shutdown -}}
{{- if .Values.terminationGracePeriodSeconds -}}{{ int .Values.terminationGracePeriodSeconds }}
{{- else -}}
{{- $grace := include "mayfly.seconds" (toString (default "0s" $shutdown.grace)) | int -}}
{{- $drain := include "mayfly.seconds" (toString (default "20s" $shutdown.drain)) | int -}}
{{- add $grace $drain 15 -}}
{{- end -}}
{{- end -}}

{{- define "mayfly.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "mayfly.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}{{ default (include "mayfly.fullname" .) .Values.serviceAccount.name }}
{{- else -}}{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "mayfly.issuersConfigMap" -}}{{ default (printf "%s-issuers" (include "mayfly.fullname" .)) .Values.issuers.configMap }}{{- end -}}
{{- define "mayfly.caConfigMap" -}}{{ default (printf "%s-ca" (include "mayfly.fullname" .)) .Values.ca.configMap }}{{- end -}}
{{- define "mayfly.caSecret" -}}{{ default (printf "%s-ca-keys" (include "mayfly.fullname" .)) .Values.ca.keys.secret }}{{- end -}}
{{- define "mayfly.submitSecret" -}}{{ default (printf "%s-log-submit" (include "mayfly.fullname" .)) .Values.logSubmitSecret }}{{- end -}}

{{- /* "true" if no log is named and logs are not disabled: Pods then wait for a ConfigMap. */ -}}
{{- define "mayfly.lacksLog" -}}
{{- $ct := default dict .Values.config.ct -}}
{{- if not (or $ct.logs $ct.disabled .Values.embeddedLogs) -}}true{{- end -}}
{{- end -}}

{{- /* "true" if the chart writes the ConfigMap for /etc/mayfly/ct. */ -}}
{{- define "mayfly.hasCTFiles" -}}
{{- $has := not (empty .Values.ct.files) -}}
{{- range .Values.embeddedLogs }}{{ if .publicKey }}{{ $has = true }}{{ end }}{{ end -}}
{{- if $has -}}true{{- end -}}
{{- end -}}

{{- /* The peers of a rule of a NetworkPolicy, if there are any. */ -}}
{{- define "mayfly.peers" -}}
{{- with .peers }}
{{ $.key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "mayfly.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}
